// The shell interpreter of Apptainer and SingularityCE (mvdan.cc/sh), used as they do: what
// a script starts with exec takes the interpreter's place, in the directory of its caller.
//
//	mvdan_sh SCRIPT [ARGUMENT...]
package main

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

func main() {
	script, err := os.Open(os.Args[1])
	check(err)
	parsed, err := syntax.NewParser().Parse(script, os.Args[1])
	check(err)
	var runner *interp.Runner
	usual := interp.DefaultExecHandler(0)
	start := func(ctx context.Context, words []string) error {
		if !runner.Exited() {
			return usual(ctx, words)
		}
		handler := interp.HandlerCtx(ctx)
		program, err := interp.LookPathDir(handler.Dir, handler.Env, words[0])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return interp.NewExitStatus(127)
		}
		check(syscall.Exec(program, words, exported(handler.Env)))
		return nil
	}
	runner, err = interp.New(
		interp.StdIO(os.Stdin, os.Stdout, os.Stderr),
		interp.Env(expand.ListEnviron(os.Environ()...)),
		interp.Params(append([]string{"--"}, os.Args[2:]...)...),
		interp.ExecHandler(start),
	)
	check(err)
	if err := runner.Run(context.Background(), parsed); err != nil {
		if status, ok := interp.IsExitStatus(err); ok {
			os.Exit(int(status))
		}
		check(err)
	}
}

func exported(variables expand.Environ) (found []string) {
	last := map[string]expand.Variable{}
	variables.Each(func(name string, variable expand.Variable) bool {
		last[name] = variable
		return true
	})
	for name, variable := range last {
		if variable.Exported && variable.Kind == expand.String {
			found = append(found, name+"="+variable.Str)
		}
	}
	return found
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
}
