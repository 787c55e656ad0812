"""Generated scripts in the interpreter that Apptainer and SingularityCE run them with.

Both have it built in: mvdan.cc/sh, of which Debian has the library (golang-mvdan-sh-dev).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_singularity import ENDS, NASTY, OFTEN_SPECIAL, PLAIN, as_bytes, text, tree, ugly

from duccmake.oci.manifest import ImageConfig
from duccmake.tree import mtree
from support import skips
from support.oracles import needs_root

GO_PATH = Path("/usr/share/gocode")
SOURCE = Path(skips.__file__).with_name("mvdan_sh.go")
LINE = 'eval "set ${SINGULARITY_OCI_RUN}"'
"""Where a runscript has it, both programs interpret it (their getDockerRunscript)."""

# The interpreter takes these two and some ends of lines for something else.
odd = st.lists(st.sampled_from([*NASTY, "\x80", "\x81", "\r\n", "\\\r\n", "it's"]), max_size=6)
words = text | odd.map("".join)


@pytest.fixture(scope="session")
def interpreter(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program, which takes a moment to be built the first time."""
    if not shutil.which("go") or not (GO_PATH / "src/mvdan.cc/sh/v3").is_dir():
        pytest.skip("go (golang-go) and its library mvdan.cc/sh (golang-mvdan-sh-dev) are missing")
    cache = getattr(pytestconfig, "cache", None)
    base = cache.mkdir("mvdan-sh") if cache else tmp_path_factory.mktemp("mvdan-sh")
    program = base / f"mvdan_sh-{os.getpid()}"
    settings = {"GO111MODULE": "off", "GOPATH": str(GO_PATH), "GOCACHE": str(base / "go")}
    settings["CGO_ENABLED"] = "0"  # for a tree without libraries
    command = ["go", "build", "-o", str(program), str(SOURCE)]
    subprocess.run(command, env={**os.environ, **settings}, check=True)
    return str(program.rename(base / "mvdan_sh"))


def run(
    interpreter: str, script: str | bytes, *arguments: str | bytes, **env: str
) -> subprocess.CompletedProcess[bytes]:
    with tempfile.TemporaryDirectory() as base:
        path = Path(base) / "script"
        path.write_bytes(script.encode() if isinstance(script, str) else script)
        done = subprocess.run(
            [interpreter, path, *arguments],
            capture_output=True,
            cwd=base,
            env={"PATH": "/usr/bin:/bin", **env},
        )
        assert [each.name for each in Path(base).iterdir()] == ["script"]
    return done


def environment_after(interpreter: str, config: ImageConfig, **env: str) -> dict[bytes, bytes]:
    script = tree(config)[b".singularity.d/env/10-docker2singularity.sh"].content
    done = run(interpreter, script + b"exec /usr/bin/env -0\n", **env)
    assert (done.returncode, done.stderr) == (0, b"")
    return dict(member.partition(b"=")[::2] for member in done.stdout.split(b"\0") if member)


@given(values=st.lists(words, min_size=1, max_size=4))
@example(values=[ugly, "", *NASTY, "\x80", "\x81'", "\\\r\n", "it's", "'"])
@settings(max_examples=60)
def test_environment_arrives_byte_for_byte(interpreter: str, values: list[str]) -> None:
    env = tuple(f"D_{number}={value}" for number, value in enumerate(values))
    found = environment_after(interpreter, replace(PLAIN, env=env))
    for number, value in enumerate(values):
        assert found[b"D_%d" % number] == as_bytes(value)


def test_every_character_arrives(interpreter: str) -> None:
    codes = [*range(1, 0xD800), *range(0xE000, 0x11000), 0x1F600, 0x10FFFF]
    for start in range(0, len(codes), 2000):
        part = codes[start : start + 2000]
        env = tuple(f"C{code}=a{chr(code)}b{chr(code)}" for code in part)
        found = environment_after(interpreter, replace(PLAIN, env=env))
        assert [c for c in part if found.get(b"C%d" % c) != f"a{chr(c)}b{chr(c)}".encode()] == []


@given(name=text)
@example(name=ugly)
@example(name="A\ntouch canary\nB")
def test_no_name_of_a_variable_runs_code_or_stops_those_after_it(
    interpreter: str, name: str
) -> None:
    config = replace(PLAIN, env=(name, f"{name}=x", "LAST=here"))
    assert environment_after(interpreter, config)[b"LAST"] == b"here"


@pytest.mark.parametrize("name", [*OFTEN_SPECIAL, "GID", "EUID", "HOME", "PATH"])
def test_variables_that_shells_keep_for_themselves_do_no_harm(interpreter: str, name: str) -> None:
    config = replace(PLAIN, env=(f"{name}=$(touch canary)", "LAST=here"))
    assert environment_after(interpreter, config)[b"LAST"] == b"here"


def test_path_is_the_images_and_the_rest_yields_to_the_caller(interpreter: str) -> None:
    config = replace(PLAIN, env=("PATH=/of/the image", "A=image", "B=image", "C=image"))
    found = environment_after(interpreter, config, A="caller", B="")
    assert found[b"PATH"] == b"/of/the image"
    assert (found[b"A"], found[b"B"], found[b"C"]) == (b"caller", b"image", b"image")


def test_all_scripts_of_the_environment_run(interpreter: str) -> None:
    found = tree(replace(PLAIN, env=("COLOUR=blue",)))
    scripts = [
        entry.content
        for path, entry in sorted(found.items())
        if path.startswith(b".singularity.d/env/") and entry.kind == mtree.FILE
    ]
    assert len(scripts) == 6
    done = run(interpreter, b"\n".join([*scripts, b"exec /usr/bin/env"]))
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"COLOUR=blue" in done.stdout.splitlines()


# --- the runscript ---------------------------------------------------------

SHOW = ("/usr/bin/printf", "%s\\0", "begin")


def runscript(config: ImageConfig) -> bytes:
    content = tree(config)[b".singularity.d/runscript"].content
    assert LINE in content.decode(errors="replace").splitlines()
    return content


def started(interpreter: str, config: ImageConfig, *arguments: str) -> list[bytes]:
    done = run(interpreter, runscript(config), *map(as_bytes, arguments), PATH="/none")
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.split(b"\0")[:-1]


@given(
    entrypoint=st.lists(words, max_size=3),
    cmd=st.lists(words, max_size=3),
    arguments=st.lists(words, max_size=3),
)
@example(entrypoint=[ugly, "it's"], cmd=["\x80", "\\\r\n"], arguments=[])
@example(entrypoint=["it's"], cmd=[], arguments=["-n", "$(touch canary)", ugly])
@settings(max_examples=60)
def test_runscript_starts_what_docker_starts(
    interpreter: str, entrypoint: list[str], cmd: list[str], arguments: list[str]
) -> None:
    config = replace(PLAIN, entrypoint=(*SHOW, *entrypoint), cmd=tuple(cmd))
    wanted = ["begin", *entrypoint, *(arguments or cmd)]
    assert started(interpreter, config, *arguments) == list(map(as_bytes, wanted))


@ENDS
def test_exit_status_is_what_docker_gives(
    interpreter: str, config: ImageConfig, arguments: list[str], status: int
) -> None:
    assert run(interpreter, runscript(config), *arguments).returncode == status


def test_program_starts_in_the_working_directory(interpreter: str, tmp_path: Path) -> None:
    here = tmp_path.resolve() / "it's $HOME"
    here.mkdir()
    config = replace(PLAIN, cmd=("/bin/pwd", "-P"), working_dir=str(here))
    done = run(interpreter, runscript(config))
    assert (done.stdout, done.stderr) == (f"{here}\n".encode(), b"")


def test_the_line_is_found_whatever_the_image_starts(interpreter: str) -> None:
    long = "x" * 100_000
    config = replace(PLAIN, entrypoint=(*SHOW, long), cmd=(long,))
    # Both programs look for it line by line, and give up at one of 64 KiB.
    before = runscript(config).partition(LINE.encode())[0]
    assert max(map(len, before.splitlines())) < 1000
    assert started(interpreter, config) == [b"begin", *[long.encode()] * 2]


@needs_root
@pytest.mark.parametrize(
    ("program", "directory"),
    [
        ("/opt/it's/app", "/work"),
        ("./app", "/opt/it's"),
        ("it's/app", "opt"),
        ("../it's/app", "/opt/x\\y"),
        ("app", "/work"),
    ],
)
def test_an_image_without_a_shell_is_run(
    interpreter: str, program: str, directory: str, tmp_path: Path
) -> None:
    config = replace(PLAIN, entrypoint=(program, "/hello"), cmd=("it's",), working_dir=directory)
    for entry in tree(config).values():
        path = tmp_path / os.fsdecode(entry.path)
        if entry.kind == mtree.DIR:
            path.mkdir()
        elif entry.kind == mtree.FILE:
            path.write_bytes(entry.content)
    (tmp_path / "opt/it's").mkdir(parents=True)
    (tmp_path / "opt/x\\y").mkdir()
    shutil.copy(interpreter, tmp_path / "interpreter")
    shutil.copy(interpreter, tmp_path / "opt/it's/app")
    (tmp_path / "hello").write_text('echo "hello, $1"\n')
    command = [shutil.which("chroot") or "chroot", tmp_path, "/interpreter"]
    done = subprocess.run(
        [*command, "/.singularity.d/runscript"], capture_output=True, env={"PATH": "/opt/it's"}
    )
    assert (done.stdout, done.stderr) == (b"hello, it's\n", b"")
