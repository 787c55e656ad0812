"""What a flat tree gets beyond its image, so that Singularity and Apptainer can run it.

Both programs look for `.singularity.d`: they load its `env/*.sh` in the order of
their names and start one of its `actions`.  They bind the host's files onto
mount points, which a read-only tree has to have already.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..errors import ConfigError
from ..oci.manifest import ImageConfig
from ..tree.mtree import DIR, FILE, LINK

DIRECTORY = b".singularity.d"
"""The directory that belongs to Singularity and Apptainer; only below it may files be replaced."""


@dataclass(frozen=True, slots=True)
class Generated:
    """One entry that a flat tree gets.

    ``path`` is relative to the root, without ``./``.  Where the image has the
    path already, the image's entry stays, unless ``overwrite`` is set.
    """

    path: bytes
    kind: bytes
    mode: int
    content: bytes = b""
    target: bytes = b""
    overwrite: bool = False


def generated(
    config: ImageConfig, *, name: str, mount_points: Sequence[str] = ("/cvmfs", "/srv")
) -> tuple[Generated, ...]:
    """Everything the flat tree of an image gets, parents first; the same bytes for the same input.

    ``name`` says in the labels what the tree was made from.  Tags of one image
    share one tree, so it has to be the same for all of them: a digest.
    ``mount_points`` are absolute paths of directories that the site binds.
    Raises `ConfigError` for a mount point that is not one.
    """
    entries = {entry.path: entry for entry in (*_own(config, name), *_links(), *_usual_places())}
    for mount_point in mount_points:
        for path in _with_parents(mount_point):
            there = entries.setdefault(path, _directory(path))
            if there.kind != DIR:
                raise ConfigError(
                    f"the mount point {mount_point!r} lies where every flat tree has a file",
                    hint="name another directory",
                )
    return tuple(entries.values())


def _own(config: ImageConfig, name: str) -> Iterator[Generated]:
    for directory in ("", "/actions", "/env", "/libs"):
        yield Generated(DIRECTORY + directory.encode(), DIR, 0o755, overwrite=True)
    scripts = _SCRIPTS | {
        "env/10-docker2singularity.sh": _environment(config.env),
        "runscript": _runscript(config),
    }
    for path, content in sorted(scripts.items()):
        yield _own_file(path, 0o755, content)
    yield _own_file("labels.json", 0o644, _labels(config, name))


def _own_file(path: str, mode: int, content: str) -> Generated:
    return Generated(DIRECTORY + b"/" + path.encode(), FILE, mode, _bytes(content), overwrite=True)


def _links() -> Iterator[Generated]:
    targets = {"singularity": "runscript", "environment": "env/90-environment.sh"}
    targets |= {f".{action}": f"actions/{action}" for action in ("exec", "run", "shell", "test")}
    for path, target in targets.items():
        yield Generated(path.encode(), LINK, 0o777, target=DIRECTORY + b"/" + target.encode())


def _usual_places() -> Iterator[Generated]:
    for path in (b"dev", b"proc", b"sys", b"root", b"home", b"var", b"etc"):
        yield _directory(path)
    for path in (b"tmp", b"var/tmp"):
        yield _directory(path, 0o1777)
    # What is there the caller's own entries are added to, or bound onto.
    for path in (b"etc/hosts", b"etc/resolv.conf", b"etc/passwd", b"etc/group"):
        yield Generated(path, FILE, 0o644)


def _directory(path: bytes, mode: int = 0o755) -> Generated:
    return Generated(path, DIR, mode)


def _with_parents(mount_point: str) -> Iterator[bytes]:
    parts = [part for part in mount_point.split("/") if part not in ("", ".")]
    if not mount_point.startswith("/") or not parts or ".." in parts or "\0" in mount_point:
        raise ConfigError(
            f"{mount_point!r} is not a mount point",
            hint="write the absolute path of a directory, like /cvmfs",
        )
    for count in range(1, len(parts) + 1):
        yield _bytes("/".join(parts[:count]))


# What is Docker's in the image's configuration

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

_SHELLS_OWN = frozenset({"_", "IFS", "OPTIND", "BASHOPTS", "SHELLOPTS"})
"""Variables by which a shell steers itself: set from outside they break the scripts after them."""


def _environment(env: Sequence[str]) -> str:
    """PATH as the image has it; everything else only where the caller has not set it."""
    values: dict[str, str] = {}
    lines = ["#!/bin/sh", "# The environment that the image asks for."]
    for member in env:
        name, equals, value = member.partition("=")
        if equals and _NAME.match(name) and name not in _SHELLS_OWN and "\0" not in value:
            values[name] = value
        else:
            # JSON in ASCII has no line end and nothing else that could leave the comment.
            lines.append(f"# left out, no shell can pass it on: {json.dumps(name[:60])}")
    for name, value in values.items():
        if name == "PATH":
            lines.append(f"PATH={_quoted(value)}")
        else:
            lines.append(f'[ -n "${{{name}:-}}" ] || {name}={_quoted(value)}')
        lines.append(f"export {name}")
    return "\n".join(lines) + "\n"


def _runscript(config: ImageConfig) -> str:
    """Start what ``docker run`` starts; no word is ever looked at by the shell a second time.

    A working directory of ``/`` is what builders write where nobody asked for
    one; then the caller's own stays, where Singularity's users expect to be.
    """
    # Docker takes an entrypoint of one empty word as none.
    entrypoint = () if config.entrypoint == ("",) else config.entrypoint
    if any("\0" in word for word in (*entrypoint, *config.cmd)):
        return _INTERPRETED + _NOT_RUNNABLE
    lines = [f"{_INTERPRETED}# Entrypoint, then the arguments or else Cmd, as Docker has it."]
    if config.cmd:
        lines.append(f'[ "$#" -gt 0 ] || set -- {_words(config.cmd)}')
    if entrypoint:
        lines.append(f'set -- {_words(entrypoint)} "$@"')
    lines.append(_CHECK)
    directory = "/" + config.working_dir.removeprefix("/")
    if directory.strip("/") and "\0" not in directory:
        lines.append(_START_IN.replace("DIRECTORY", _quoted(directory)))
    lines.append('exec "$@"')
    return "\n".join(lines) + "\n"


def _words(words: Sequence[str]) -> str:
    return " ".join(_quoted(word) for word in words)


def _quoted(text: str) -> str:
    """One word of shell that means ``text``, whatever is in it (POSIX, 2.2.2 "Single-Quotes").

    Also to the interpreter of Apptainer's and SingularityCE's own (mvdan.cc/sh), which
    has uses of its own for some characters, even between single quotes.
    """
    for character, written in _WRITTEN.items():
        text = text.replace(character, written)
    return f"'{text}'"


_WRITTEN = {
    "'": "'\"'\"'",
    "\\\r\n": "\\''\r\n",
    "\x80": "'\"$(printf '\\302\\200')\"'",
    "\x81": "'\"$(printf '\\302\\201')\"'",
}
"""How characters stand between single quotes that cannot stand there as they are."""


def _labels(config: ImageConfig, name: str) -> str:
    """The image's labels, and where it has none of that name those of a Singularity build."""
    schema = "org.label-schema."
    architecture = config.platform.architecture
    labels: Mapping[str, str] = {
        f"{schema}schema-version": "1.0",
        **({f"{schema}build-arch": architecture} if architecture else {}),
        f"{schema}usage.singularity.deffile.bootstrap": "docker",
        f"{schema}usage.singularity.deffile.from": name,
        **config.labels,
    }
    return json.dumps(labels, indent="\t", sort_keys=True) + "\n"


def _bytes(text: str) -> bytes:
    # JSON can hold half a surrogate pair, UTF-8 cannot; Docker reads it as U+FFFD.
    return re.sub("[\ud800-\udfff]", "\ufffd", text).encode()


# The scripts that are the same for every image

_INTERPRETED = """\
#!/bin/sh
if false; then
    # Apptainer and SingularityCE run a script with this line themselves: /bin/sh need not be there.
eval "set ${SINGULARITY_OCI_RUN}"
fi
"""

_CHECK = """\
[ "$#" -gt 0 ] || set -- /bin/sh
case $1 in
-*) # exec would take it for an option of its own
    printf '%s: no such program in the image\\n' "$1" >&2
    exit 127
    ;;
esac"""

# What Apptainer starts itself is in its caller's directory, whatever the script did before;
# without a shell that could enter another one, the program at least is found there.
_START_IN = """\
if [ -x /bin/sh ]; then
    set -- /bin/sh -c 'cd "$0" || echo "staying in the current directory" >&2; exec "$@"' \
        DIRECTORY "$@"
else
    case $1 in
    /*) ;;
    */*)
        __duccmake_program=$1
        shift
        set -- DIRECTORY/"$__duccmake_program" "$@"
        unset __duccmake_program
        ;;
    esac
fi"""

_NOT_RUNNABLE = """\
echo 'the image names a program or an argument with a NUL byte: it cannot be started' >&2
exit 126
"""

# The loop's variable must not be one that an image may set.
_LOAD = """\
#!/bin/sh
for __duccmake_env in /.singularity.d/env/*.sh; do
    [ ! -r "$__duccmake_env" ] || . "$__duccmake_env"
done
unset __duccmake_env
"""

_APP = "${APPTAINER_APPNAME:-${SINGULARITY_APPNAME:-}}"

_EXEC = _LOAD + 'exec "$@"\n'

_RUN = (
    _LOAD
    + f"""\
if [ -n "{_APP}" ]; then
    # 95-apps.sh has made sure that there is such an application
    exec "$SCIF_APPROOT/scif/runscript" "$@"
fi
[ ! -x /.singularity.d/runscript ] || exec /.singularity.d/runscript "$@"
echo 'the image has no runscript: starting a shell' >&2
exec /bin/sh "$@"
"""
)

_SHELL = (
    _LOAD
    + """\
for __duccmake_shell in "${APPTAINER_SHELL:-}" "${SINGULARITY_SHELL:-}"; do
    [ ! -x "$__duccmake_shell" ] || exec "$__duccmake_shell" "$@"
done
if [ -x /bin/bash ]; then
    export SHELL=/bin/bash
    exec /bin/bash --norc "$@"
fi
if [ -x /bin/sh ]; then
    export SHELL=/bin/sh
    exec /bin/sh "$@"
fi
echo 'the image has no shell' >&2
exit 1
"""
)

_START = (
    _LOAD.replace("\n", "\n# The instance's first process sleeps until then.\nkill -CONT 1\n", 1)
    + '[ ! -x /.singularity.d/startscript ] || exec /.singularity.d/startscript "$@"\n'
)

_TEST = (
    _LOAD
    + f"""\
if [ -n "{_APP}" ]; then
    exec "$SCIF_APPROOT/scif/test" "$@"
fi
[ ! -x /.singularity.d/test ] || exec /.singularity.d/test "$@"
echo 'the image has no test' >&2
"""
)

# An image may hold applications of the Scientific Filesystem (SCIF) below /scif/apps.
_APPS = f"""\
#!/bin/sh
if [ -n "{_APP}" ]; then
    SCIF_APPS=/scif/apps
    SCIF_APPROOT="$SCIF_APPS/{_APP}"
    if [ ! -d "$SCIF_APPROOT" ]; then
        printf 'the image has no application %s\\n' "$SCIF_APPROOT" >&2
        exit 1
    fi
    PATH="$SCIF_APPROOT:$PATH"
    [ ! -d "$SCIF_APPROOT/bin" ] || PATH="$SCIF_APPROOT/bin:$PATH"
    export SCIF_APPS SCIF_APPROOT PATH
    if [ -d "$SCIF_APPROOT/lib" ]; then
        export LD_LIBRARY_PATH="$SCIF_APPROOT/lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
    fi
    [ ! -r "$SCIF_APPROOT/scif/env/01-base.sh" ] || . "$SCIF_APPROOT/scif/env/01-base.sh"
    [ ! -r "$SCIF_APPROOT/scif/env/90-environment.sh" ] ||
        . "$SCIF_APPROOT/scif/env/90-environment.sh"
fi
"""

# The host's libraries that Singularity and Apptainer bind (those of GPUs) appear in libs.
_BASE = """\
#!/bin/sh
LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs"
PS1='Singularity> '
export LD_LIBRARY_PATH PS1
"""

# The user's own wishes for PATH (SINGULARITYENV_PREPEND_PATH and its like) come in these.
_RUNTIME_VARIABLES = """\
#!/bin/sh
PATH="${SING_USER_DEFINED_PREPEND_PATH:+$SING_USER_DEFINED_PREPEND_PATH:}$PATH"
PATH="$PATH${SING_USER_DEFINED_APPEND_PATH:+:$SING_USER_DEFINED_APPEND_PATH}"
PATH="${SING_USER_DEFINED_PATH:-$PATH}"
export PATH
unset SING_USER_DEFINED_PREPEND_PATH SING_USER_DEFINED_APPEND_PATH SING_USER_DEFINED_PATH
"""

_SCRIPTS = {
    "actions/exec": _EXEC,
    "actions/run": _RUN,
    "actions/shell": _SHELL,
    "actions/start": _START,
    "actions/test": _TEST,
    "env/01-base.sh": "#!/bin/sh\n# Nothing comes before the image's own environment.\n",
    "env/90-environment.sh": "#!/bin/sh\n# For whoever builds upon the tree.\n",
    "env/95-apps.sh": _APPS,
    "env/99-base.sh": _BASE,
    "env/99-runtimevars.sh": _RUNTIME_VARIABLES,
    "startscript": "#!/bin/sh\n# Docker knows no command of an instance's own.\n",
}
