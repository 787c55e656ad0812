"""The generated scripts, run by real shells, and the list of what a flat tree gets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from duccmake.errors import ConfigError
from duccmake.layer.singularity import Generated, generated
from duccmake.oci.manifest import ImageConfig
from duccmake.oci.reference import Platform
from duccmake.tree import mtree

PLAIN = ImageConfig(Platform("linux", "amd64"), ())

SHELLS = {
    "dash": ["dash"],
    "bash": ["bash"],
    "bash as sh": ["bash", "--posix"],
    "busybox": ["busybox", "sh"],
}
PRESENT = [name for name, command in SHELLS.items() if shutil.which(command[0])]

NASTY = [
    "'",
    '"',
    "\\",
    "`touch canary`",
    "$(touch canary)",
    "'; touch canary; '",
    '"; touch canary; "',
    "${x:-",
    "}",
    "$HOME",
    "\n",
    "\r",
    "!!",
    "*",
    "~",
    "#",
    "-n",
    "\x81",
    "\u00e9\u4e2d\U0001f600",
    "\x01\x7f\x88",
    "\ud800",
]
OFTEN_SPECIAL = [
    "_",
    "IFS",
    "OPTIND",
    "OPTARG",
    "PPID",
    "PWD",
    "OLDPWD",
    "LINENO",
    "PS1",
    "PS2",
    "PS4",
    "ENV",
    "BASH_ENV",
    "UID",
    "RANDOM",
    "FUNCNAME",
    "SHELLOPTS",
    "BASHOPTS",
    "MAIL",
    "MAILPATH",
    "HISTSIZE",
    "TERM",
    "__duccmake_env",
]
text = st.one_of(
    st.text(st.characters(exclude_characters="\0"), max_size=20),
    st.lists(st.sampled_from(NASTY), max_size=6).map("".join),
)
ugly = "".join(NASTY)


def as_bytes(value: str) -> bytes:
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def tree(config: ImageConfig, mount_points: Sequence[str] = ()) -> dict[bytes, Generated]:
    entries = generated(config, name="sha256:00", mount_points=mount_points)
    assert len({entry.path for entry in entries}) == len(entries)
    return {entry.path: entry for entry in entries}


def write(config: ImageConfig, root: Path, *, prefix: str | None = None) -> None:
    """Write the tree; with ``prefix`` its scripts look there instead of in ``/``."""
    for entry in generated(config, name="sha256:00", mount_points=()):
        path = root / os.fsdecode(entry.path)
        if entry.kind == mtree.DIR:
            path.mkdir()
            path.chmod(entry.mode)
        elif entry.kind == mtree.LINK:
            path.symlink_to(os.fsdecode(entry.target))
        else:
            content = entry.content
            if prefix is not None:
                content = content.replace(b"/.singularity.d", f"{prefix}/.singularity.d".encode())
                content = content.replace(b"/scif/apps", f"{prefix}/scif/apps".encode())
            path.write_bytes(content)
            path.chmod(entry.mode)


def run(
    shell: str, *arguments: str | bytes, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    environment = {"PATH": "/usr/bin:/bin", **(env or {})}
    command = [shutil.which(SHELLS[shell][0]) or shell, *SHELLS[shell][1:], *arguments]
    return subprocess.run(command, capture_output=True, cwd=cwd, env=environment, check=False)


def environment_after(
    shell: str, config: ImageConfig, cwd: Path, env: Mapping[str, str] | None = None
) -> dict[bytes, bytes]:
    script = cwd / "10-docker2singularity.sh"
    script.write_bytes(tree(config)[b".singularity.d/env/10-docker2singularity.sh"].content)
    done = run(shell, "-c", '. "$0"; exec /usr/bin/env -0', str(script), cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in cwd.iterdir()) == [script.name]
    return dict(member.partition(b"=")[::2] for member in done.stdout.split(b"\0") if member)


def arguments_of(
    shell: str, config: ImageConfig, *given_arguments: str | bytes, cwd: Path
) -> list[bytes]:
    """What the runscript starts: the entrypoint or command has to be `SHOW`."""
    script = cwd / "runscript"
    script.write_bytes(tree(config)[b".singularity.d/runscript"].content)
    done = run(shell, str(script), *given_arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in cwd.iterdir()) == [script.name]
    return done.stdout.split(b"\0")[1:-1]


SHOW = ("/usr/bin/printf", "%s\\0", "begin")


@pytest.fixture(params=PRESENT)
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# The list


def test_every_entry_follows_its_parent_and_stays_inside() -> None:
    seen = {b""}
    for entry in generated(PLAIN, name="x", mount_points=("/cvmfs", "/data/site/scratch")):
        assert entry.path.rpartition(b"/")[0] in seen
        assert entry.path.strip(b"/") == entry.path
        assert not entry.target.startswith(b"/")
        seen.add(entry.path)
    assert b"data/site/scratch" in seen


def test_only_what_is_in_singularitys_own_directory_may_overwrite() -> None:
    for path, entry in tree(PLAIN).items():
        assert entry.overwrite == (path.split(b"/")[0] == b".singularity.d")


def test_all_that_singularity_looks_for_is_there() -> None:
    entries = tree(PLAIN, ("/cvmfs",))
    for name in ("exec", "run", "shell", "start", "test"):
        assert entries[b".singularity.d/actions/" + name.encode()].mode == 0o755
    parts = "01-base 10-docker2singularity 90-environment 95-apps 99-base 99-runtimevars"
    for name in parts.split():
        assert entries[f".singularity.d/env/{name}.sh".encode()].kind == mtree.FILE
    for path in b".singularity.d/libs dev proc sys root home tmp var/tmp etc cvmfs".split():
        assert entries[path].kind == mtree.DIR
    for path in (b"etc/hosts", b"etc/resolv.conf", b"etc/passwd", b"etc/group"):
        assert (entries[path].kind, entries[path].content) == (mtree.FILE, b"")
    assert entries[b"tmp"].mode == entries[b"var/tmp"].mode == 0o1777


def test_links_lead_to_generated_files() -> None:
    entries = tree(PLAIN)
    links = {path: entry.target for path, entry in entries.items() if entry.kind == mtree.LINK}
    assert set(links) == set(b"singularity environment .exec .run .shell .test".split())
    for target in links.values():
        assert entries[target].kind == mtree.FILE


def test_same_image_gives_same_bytes() -> None:
    one = replace(PLAIN, env=("A=1", "B=2"), labels={"a": "1", "b": "2"}, created="2024-01-01")
    two = replace(one, labels={"b": "2", "a": "1"}, created="2025-01-01")
    assert generated(one, name="x") == generated(two, name="x")


@pytest.mark.parametrize("wrong", ["cvmfs", "/", "", "/a/../b", "/a\0b", "/etc/hosts", "/.exec/x"])
def test_wrong_mount_point_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError):
        generated(PLAIN, name="x", mount_points=(wrong,))


def test_repeated_mount_points_come_once() -> None:
    assert tree(PLAIN, ("/cvmfs", "//cvmfs/", "/home", "/var/tmp")) == tree(PLAIN, ("/cvmfs",))


def test_labels_are_the_images_before_ours() -> None:
    config = replace(PLAIN, labels={"org.label-schema.schema-version": "9", 'q"\n': "v\ud800"})
    labels = json.loads(tree(config)[b".singularity.d/labels.json"].content)
    assert labels["org.label-schema.schema-version"] == "9"
    assert labels['q"\n'] == "v\ud800"
    assert labels["org.label-schema.build-arch"] == "amd64"
    assert labels["org.label-schema.usage.singularity.deffile.from"] == "sha256:00"


def test_labels_say_no_architecture_where_the_image_says_none() -> None:
    config = replace(PLAIN, platform=Platform("linux", ""))
    labels = json.loads(tree(config)[b".singularity.d/labels.json"].content)
    assert "org.label-schema.build-arch" not in labels


# The scripts


def test_every_script_parses(shell: str, tmp_path: Path) -> None:
    full = replace(PLAIN, env=(f"A={ugly}", ugly), cmd=(ugly,), entrypoint=(ugly,))
    for config in (PLAIN, full, replace(full, working_dir=ugly), replace(PLAIN, cmd=("\0",))):
        for path, entry in tree(config).items():
            if entry.kind == mtree.FILE and entry.mode == 0o755:
                assert entry.content.startswith(b"#!/bin/sh\n")
                script = tmp_path / "script"
                script.write_bytes(entry.content)
                done = run(shell, "-n", str(script), cwd=tmp_path)
                assert (done.returncode, done.stderr) == (0, b""), path


@given(values=st.lists(text, min_size=1, max_size=4), locale=st.sampled_from(["C", "C.UTF-8"]))
@example(values=[ugly, "", *NASTY], locale="C")
@example(values=[ugly, "", *NASTY], locale="C.UTF-8")
@settings(max_examples=40, deadline=None)
def test_environment_arrives_byte_for_byte(values: list[str], locale: str) -> None:
    env = tuple(f"D_{number}={value}" for number, value in enumerate(values))
    for shell in PRESENT:
        with tempfile.TemporaryDirectory() as cwd:
            config = replace(PLAIN, env=env)
            found = environment_after(shell, config, Path(cwd), {"LC_ALL": locale})
            for number, value in enumerate(values):
                assert found[b"D_%d" % number] == as_bytes(value), shell


@given(name=st.one_of(text, text.map("A\n{}".format), text.map("A[{}]".format)))
@example(name=ugly)
@example(name="A\ntouch canary\nB")
@example(name="")
@settings(max_examples=40, deadline=None)
def test_no_name_of_a_variable_runs_code_or_stops_those_after_it(name: str) -> None:
    config = replace(PLAIN, env=(name, f"{name}=x", "LAST=here"))
    for shell in PRESENT:
        with tempfile.TemporaryDirectory() as cwd:
            assert environment_after(shell, config, Path(cwd))[b"LAST"] == b"here", shell


def test_variables_that_shells_keep_for_themselves_do_no_harm(shell: str, tmp_path: Path) -> None:
    names = subprocess.run(["bash", "-c", "compgen -v"], capture_output=True, check=True).stdout
    for name in {*names.decode().split(), *OFTEN_SPECIAL}:
        config = replace(PLAIN, env=(f"{name}=xtrace$(touch canary)", "LAST=here"))
        assert environment_after(shell, config, tmp_path)[b"LAST"] == b"here", name


@pytest.mark.parametrize("name", ["IFS", "OPTIND", "BASHOPTS", "SHELLOPTS"])
def test_image_cannot_steer_the_shells_of_its_caller(shell: str, tmp_path: Path, name: str) -> None:
    config = replace(PLAIN, env=(f"{name}=xtrace",))
    assert name.encode() not in environment_after(shell, config, tmp_path)


def test_path_is_the_images_and_the_rest_yields_to_the_caller(shell: str, tmp_path: Path) -> None:
    config = replace(PLAIN, env=("PATH=/of/the image", "A=image", "B=image", "C=image"))
    found = environment_after(shell, config, tmp_path, {"A": "caller", "B": "", "PATH": "/bin"})
    assert found[b"PATH"] == b"/of/the image"
    assert (found[b"A"], found[b"B"], found[b"C"]) == (b"caller", b"image", b"image")


def test_last_of_two_values_counts(shell: str, tmp_path: Path) -> None:
    config = replace(PLAIN, env=("A=1", "PATH=/1", "A=2", "PATH=/2"))
    found = environment_after(shell, config, tmp_path)
    assert (found[b"A"], found[b"PATH"]) == (b"2", b"/2")


def test_value_with_nul_is_left_out(shell: str, tmp_path: Path) -> None:
    found = environment_after(shell, replace(PLAIN, env=("A=1\x002", "B=3")), tmp_path)
    assert b"A" not in found
    assert found[b"B"] == b"3"


@given(
    entrypoint=st.lists(text, max_size=3),
    cmd=st.lists(text, max_size=3),
    arguments=st.lists(text, max_size=3),
)
@example(entrypoint=[ugly, ""], cmd=["c"], arguments=[ugly, "", "-x"])
@example(entrypoint=[], cmd=[ugly, "", "-"], arguments=[])
@settings(max_examples=40, deadline=None)
def test_words_arrive_unchanged(
    entrypoint: list[str], cmd: list[str], arguments: list[str]
) -> None:
    passed = [as_bytes(word) for word in arguments]
    config = replace(PLAIN, entrypoint=(*SHOW, *entrypoint), cmd=tuple(cmd))
    expected = [as_bytes(word) for word in entrypoint]
    expected += passed or [as_bytes(word) for word in cmd]
    for shell in PRESENT:
        with tempfile.TemporaryDirectory() as cwd:
            assert arguments_of(shell, config, *passed, cwd=Path(cwd)) == expected, shell


def test_command_alone_runs_and_gives_way_to_arguments(shell: str, tmp_path: Path) -> None:
    config = replace(PLAIN, cmd=(*SHOW, "cmd"))
    assert arguments_of(shell, config, cwd=tmp_path) == [b"cmd"]
    assert arguments_of(shell, config, *SHOW, "given", cwd=tmp_path) == [b"given"]


def test_entrypoint_of_one_empty_word_is_none(shell: str, tmp_path: Path) -> None:
    config = replace(PLAIN, entrypoint=("",), cmd=(*SHOW, "cmd"))
    assert arguments_of(shell, config, cwd=tmp_path) == [b"cmd"]


def test_image_without_command_starts_a_shell(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "runscript"
    script.write_bytes(tree(PLAIN)[b".singularity.d/runscript"].content)
    done = subprocess.run(
        [shutil.which(SHELLS[shell][0]) or shell, *SHELLS[shell][1:], script],
        input=b"echo from the $0 shell\n",
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"from the /bin/sh shell\n"


ENDS = pytest.mark.parametrize(
    ("config", "arguments", "status"),
    [
        (PLAIN, ["-c", "touch canary"], 127),
        (PLAIN, ["/no/such/program"], 127),
        (replace(PLAIN, entrypoint=("/bin/sh", "-c", "exit 5")), [], 5),
        (replace(PLAIN, cmd=("/bin/sh", "-c", "touch\0 canary")), [], 126),
    ],
)
"""Commands that cannot be started or that fail, and the status that Docker gives."""


@ENDS
def test_exit_status_is_what_docker_gives(
    shell: str, tmp_path: Path, config: ImageConfig, arguments: list[str], status: int
) -> None:
    script = tmp_path / "runscript"
    script.write_bytes(tree(config)[b".singularity.d/runscript"].content)
    assert run(shell, str(script), *arguments, cwd=tmp_path).returncode == status
    assert list(tmp_path.iterdir()) == [script]


file_names = text.map(lambda name: as_bytes(name).decode().replace("/", "_")).filter(
    lambda name: name not in ("", ".", "..")
)


@given(name=file_names)
@example(name=as_bytes(ugly).decode().replace("/", "_"))
@example(name="-P")
@example(name="trailing\n")
@settings(max_examples=30, deadline=None)
def test_program_starts_in_the_working_directory(name: str) -> None:
    for shell in PRESENT:
        with tempfile.TemporaryDirectory() as temporary:
            here = Path(temporary).resolve()
            (here / name).mkdir()
            config = replace(PLAIN, cmd=("/bin/pwd", "-P"), working_dir=f"{here}/{name}")
            script = tree(config)[b".singularity.d/runscript"].content
            done = run(shell, "-c", script, cwd=here)
            assert done.stdout == os.fsencode(here / name) + b"\n", shell
            assert [path.name for path in here.iterdir()] == [name]


@pytest.mark.parametrize("working_dir", ["", "/", "//", "/no/such/$(touch canary)directory", "\0"])
def test_caller_stays_where_he_is_without_a_working_directory(
    shell: str, tmp_path: Path, working_dir: str
) -> None:
    config = replace(PLAIN, cmd=("/bin/pwd", "-P"), working_dir=working_dir)
    done = run(shell, "-c", tree(config)[b".singularity.d/runscript"].content, cwd=tmp_path)
    assert done.stdout == os.fsencode(tmp_path.resolve()) + b"\n"
    assert bool(done.stderr) == ("no/such" in working_dir)
    assert list(tmp_path.iterdir()) == []


# The actions, with the tree's absolute paths moved into a directory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    config = replace(
        PLAIN,
        env=("COLOUR=blue", "PATH=/usr/bin:/bin", "script=kept"),
        entrypoint=SHOW,
        cmd=("from the command",),
    )
    root = tmp_path / "root"
    root.mkdir()
    write(config, root, prefix=str(root))
    return root


def act(shell: str, root: Path, action: str, *arguments: str, **env: str) -> str:
    done = run(shell, str(root / action), *arguments, cwd=root, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def test_exec_sees_the_images_environment(shell: str, root: Path) -> None:
    found = dict(line.partition("=")[::2] for line in act(shell, root, ".exec", "env").splitlines())
    assert (found["COLOUR"], found["script"]) == ("blue", "kept")
    assert found["LD_LIBRARY_PATH"] == f"{root}/.singularity.d/libs"
    assert "__duccmake_env" not in found


def test_run_starts_the_runscript_with_its_arguments(shell: str, root: Path) -> None:
    assert act(shell, root, ".run") == "begin\0from the command\0"
    assert act(shell, root, ".run", "a  b", "$x") == "begin\0a  b\0$x\0"


def test_shell_is_the_wished_one(shell: str, root: Path) -> None:
    assert act(shell, root, ".shell", "-c", "echo $COLOUR") == "blue\n"
    assert act(shell, root, ".shell", "chosen", SINGULARITY_SHELL="/bin/echo") == "chosen\n"
    assert act(shell, root, ".shell", "chosen", APPTAINER_SHELL="/bin/echo") == "chosen\n"


def test_test_runs_the_images_test_if_there_is_one(shell: str, root: Path) -> None:
    assert act(shell, root, ".test") == ""
    test = root / ".singularity.d/test"
    test.write_text('#!/bin/sh\necho "tested $COLOUR $1"\n')
    test.chmod(0o755)
    assert act(shell, root, ".test", "it") == "tested blue it\n"


def test_start_wakes_the_instance_and_starts_the_startscript(shell: str, root: Path) -> None:
    action = root / ".singularity.d/actions/start"
    action.write_text(f"kill() {{ echo kill $*; }}\n{action.read_text()}")
    (root / ".singularity.d/startscript").write_text('#!/bin/sh\necho "started $COLOUR $1"\n')
    assert act(shell, root, ".singularity.d/actions/start", "x") == "kill -CONT 1\nstarted blue x\n"


def test_application_of_the_scientific_filesystem_runs(shell: str, root: Path) -> None:
    app = root / "scif/apps/viewer"
    (app / "scif/env").mkdir(parents=True)
    (app / "bin").mkdir()
    (app / "scif/env/90-environment.sh").write_text("export VIEW=1\n")
    runscript = app / "scif/runscript"
    runscript.write_text('#!/bin/sh\necho "$VIEW $1 ${PATH%%:*}"\n')
    runscript.chmod(0o755)
    expected = f"1 now {app}/bin\n"
    assert act(shell, root, ".run", "now", SINGULARITY_APPNAME="viewer") == expected
    assert act(shell, root, ".run", "now", APPTAINER_APPNAME="viewer") == expected
    missing = run(shell, str(root / ".run"), cwd=root, env={"APPTAINER_APPNAME": "none"})
    assert missing.returncode == 1


def test_callers_wishes_for_path_count_last(shell: str, root: Path) -> None:
    def path(**wishes: str) -> str:
        env = {f"SING_USER_DEFINED_{name}": value for name, value in wishes.items()}
        lines = act(shell, root, ".exec", "/usr/bin/env", **env).splitlines()
        assert not [line for line in lines if line.startswith("SING_USER")]
        return next(line for line in lines if line.startswith("PATH="))

    assert path() == "PATH=/usr/bin:/bin"
    assert path(PREPEND_PATH="/first", APPEND_PATH="/last") == "PATH=/first:/usr/bin:/bin:/last"
    assert path(PATH="/only") == "PATH=/only"


def test_tree_runs_under_its_real_paths(tmp_path: Path) -> None:
    bwrap = shutil.which("bwrap")
    sandbox = [bwrap or "", "--unshare-user", "--bind", str(tmp_path), "/"]
    for path in ("/usr", "/bin", "/lib", "/lib64"):
        sandbox += ["--ro-bind-try", path, path]
    if not bwrap or subprocess.run([*sandbox, "/usr/bin/true"], check=False).returncode:
        pytest.skip("bwrap is not there or may not make a user namespace")
    config = replace(PLAIN, env=(f"A={ugly}",), cmd=("/usr/bin/env", "-0"), working_dir="/tmp")
    write(config, tmp_path)
    for start in ("/.run", "/singularity"):
        command = [*sandbox, "--chdir", "/", start]
        done = subprocess.run(command, capture_output=True, env={}, check=True)
        found = dict(member.partition(b"=")[::2] for member in done.stdout.split(b"\0"))
        assert found[b"PWD"] == b"/tmp"
        assert found.get(b"A") == (as_bytes(ugly) if start == "/.run" else None)
