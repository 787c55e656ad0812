"""The units that are shipped, run by a systemd: conversions under their hardening."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import requests
import yaml

from duccmake.demo.images import Image
from support.booted import ID, Booted, booted
from support.images import LayerBuilder, push
from support.oracles import needs_root
from support.registry import FullRegistry
from support.runs import CHECKOUT, REPOSITORY
from support.samples import AMD64
from support.servers import free_port
from support.watching import eventually

pytestmark = needs_root

UNITS = CHECKOUT / "config" / "systemd"
SECRET = "a secret of the sender"
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")

# What a service tries that has been taken over, each in a process of its own: a call that its
# filter refuses ends that.
PROBE = r"""
import ctypes, errno, json, mmap, os, signal, socket, sys
libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "")

def executable_memory():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)

def others():
    if not os.path.exists("/proc/1"):
        raise OSError(errno.ESRCH, "")

def home():
    if not os.listdir("/root"):
        raise OSError(errno.ENOENT, "")

def kernel_log():
    os.mknod("/var/lib/duccmake/log", 0o20666, os.makedev(1, 11))
    write("/var/lib/duccmake/log")

def read(path):
    with open(path) as file:
        if not file.read():
            raise OSError(errno.ENODATA, "")

def write(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))

TRIES = {
    "write its state": lambda: write("/var/lib/duccmake/probe"),
    "write the repository": lambda: write("/srv/cvmfs/probe"),
    "write programs": lambda: write("/opt/duccmake/probe"),
    "write the configuration": lambda: write("/etc/duccmake/probe"),
    "write the system": lambda: write("/usr/probe"),
    "read root's home": home,
    "read the senders' secrets": lambda: read("/etc/duccmake/webhook.environment"),
    "read the host's passwords": lambda: read("/etc/shadow"),
    "see other processes": others,
    "change the host's name": lambda: write("/proc/sys/kernel/hostname"),
    "become root": lambda: os.setuid(0),
    "mount": lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "a user namespace": lambda: call("unshare", 0x10000000),
    "raw packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "make a device": lambda: os.mknod("/var/lib/duccmake/vda", 0o60666, os.makedev(254, 0)),
    "open a device that it made": kernel_log,
    "give files away": lambda: os.chown("/var/lib/duccmake/probe", 1, 1),
    "load a module": lambda: call("init_module", b"x", 1, b""),
    "set the clock": lambda: call("settimeofday", ctypes.byref((ctypes.c_long * 2)(1, 0)), None),
    "trace": lambda: call("ptrace", 0, 0, 0, 0),
    "executable memory": executable_memory,
}

def outcome(attempt):
    child = os.fork()
    if not child:
        try:
            attempt()
        except OSError as error:
            os._exit(error.errno)
        except BaseException:
            os._exit(255)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return errno.errorcode.get(os.WEXITSTATUS(status), "done")

found = {name: outcome(attempt) for name, attempt in TRIES.items()}
with open("/proc/self/status") as file:
    found["bounds"] = file.read().partition("CapBnd:\t")[2].splitlines()[0]
found |= {"user": os.getuid(), "no new privileges": libc.prctl(39, 0, 0, 0, 0)}
print(json.dumps(found))
"""


def probing(unit: str) -> str:
    """A unit with a probe in place of its program."""
    lines = (UNITS / unit).read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("ExecStart=", "Type=", "Restart="))]
    at = kept.index("[Service]") + 1
    kept[at:at] = ["Type=oneshot", "ExecStart=/opt/duccmake/.venv/bin/python /opt/probe.py"]
    return "\n".join(kept)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FullRegistry]:
    with FullRegistry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, registry: FullRegistry, port: int
) -> Iterator[Booted]:
    base = tmp_path_factory.mktemp("systemd")
    units = {path.name: path.read_text() for path in UNITS.glob("duccmake*")}
    units |= {f"probe-{name}": probing(name) for name in units if name.endswith(".service")}
    config = {
        "recipe": "/etc/duccmake/recipe.yaml",
        "repository": {"backend": "directory", "root": "/srv/cvmfs"},
        "platforms": [str(AMD64)],
        "thin": {"push": "never"},
        "webhook": {"listen": f"127.0.0.1:{port}", "secrets": {"harbor": "HARBOR_SECRET"}},
    }
    recipe = {
        "version": 1,
        "user": "tests",
        "cvmfs_repo": REPOSITORY,
        "input": [f"http://{registry.host}/team/app:1"],
    }
    etc = {
        "config.yaml": yaml.safe_dump(config),
        "recipe.yaml": yaml.safe_dump(recipe),
        "webhook.environment": f"HARBOR_SECRET='{SECRET}'\n",
    }
    # The backend "cvmfs" runs as the repository's owner; here that is the same user.
    owned = (UNITS / "cvmfs.conf").read_text().replace("=cvmfs", "=duccmake")
    for name in ("duccmake.service", "duccmake-watch.service"):
        units[f"owned-{name}"] = units[f"probe-{name}"]
        units[f"owned-{name}.d/cvmfs.conf"] = owned
    with booted(base, units, etc) as system:
        (base / "opt/probe.py").write_text(PROBE)
        yield system


def image(text: str) -> Image:
    """An image with all that needs privileges."""
    layer = (
        LayerBuilder()
        .file("content", text)
        .dir("theirs", mode=0o700, uid=1000, gid=1001)
        .file("theirs/setuid", "program", mode=0o4711, uid=1000, gid=1001)
        .file("capable", "program", xattrs={"security.capability": CAPABILITY})
        .device("null", 1, 3, mode=0o666)
        .layer()
    )
    return Image((layer,), platform=AMD64)


def published(system: Booted, registry: FullRegistry) -> Path:
    """The image as clients find it."""
    return system.base / "srv/cvmfs" / REPOSITORY / registry.host / "team/app:1"


def test_a_run_converts_images_with_all_that_is_in_them(system: Booted, registry: FullRegistry):
    push(image("one"), registry.host, "team/app", "1")
    system.systemctl("start", "duccmake.service")
    tree = published(system, registry)
    assert (tree / "content").read_text() == "one"
    found = (tree / "theirs/setuid").lstat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1000, 1001, 0o4711)
    assert os.getxattr(tree / "capable", "security.capability") == CAPABILITY
    assert (tree / "null").lstat().st_rdev == os.makedev(1, 3)
    # Nobody but the service owns what it has.
    state = system.base / "var/lib/duccmake"
    assert {path.lstat().st_uid for path in (state, *state.iterdir())} == {ID}


def test_the_watcher_hears_of_a_push_by_the_webhook(
    system: Booted, registry: FullRegistry, port: int
):
    push(image("one"), registry.host, "team/app", "1")
    tree = published(system, registry)
    system.systemctl("start", "duccmake-watch.service", "duccmake-webhook.service")
    eventually(lambda: (tree / "content").exists(), "published")
    push(image("two"), registry.host, "team/app", "1")
    resource = {"resource_url": f"{registry.host}/team/app:1"}
    body = {"type": "PUSH_ARTIFACT", "event_data": {"resources": [resource]}}

    def told() -> bool | None:
        with suppress(requests.ConnectionError):
            answer = requests.post(
                f"http://127.0.0.1:{port}/harbor",
                json=body,
                headers={"Authorization": SECRET},
                proxies={"http": ""},
                timeout=60,
            )
            return bool(answer.json() == {"images": 1})
        return None

    eventually(told, "heard")
    eventually(lambda: (tree / "content").read_text() == "two", "published anew")
    system.systemctl("reload", "duccmake-watch.service")
    system.systemctl("stop", "duccmake-watch.service", "duccmake-webhook.service")
    for unit in ("duccmake-watch.service", "duccmake-webhook.service"):
        assert system.shows(unit, "Result") == "success"
        assert system.shows(unit, "NRestarts") == "0"


REFUSED = {
    "write programs": "EROFS",
    "write the configuration": "EROFS",
    "write the system": "EROFS",
    "read root's home": "ENOENT",
    "read the senders' secrets": "ENODATA",
    "read the host's passwords": "ENODATA",
    "see other processes": "ESRCH",
    "change the host's name": "EACCES",
    "become root": "EPERM",
    "mount": "SIGSYS",
    "a user namespace": "EPERM",
    "raw packets": "EAFNOSUPPORT",
    "netlink": "EAFNOSUPPORT",
    "open a device that it made": "EPERM",
    "load a module": "SIGSYS",
    "set the clock": "SIGSYS",
    "trace": "SIGSYS",
}
RUN = REFUSED | {
    "write its state": "done",
    "write the repository": "done",
    "make a device": "done",
    "give files away": "done",
    "executable memory": "done",
}
WEBHOOK = REFUSED | {
    "write its state": "done",
    "write the repository": "EROFS",
    "make a device": "EPERM",
    "open a device that it made": "EPERM",
    "give files away": "SIGSYS",
    "become root": "SIGSYS",
    "read root's home": "EACCES",
    "read the senders' secrets": "EACCES",
    "read the host's passwords": "EACCES",
    "change the host's name": "ENOENT",
    "executable memory": "EPERM",
}


@pytest.mark.parametrize(
    ("unit", "can"),
    [("duccmake", RUN), ("duccmake-watch", RUN), ("duccmake-webhook", WEBHOOK)],
)
def test_what_a_service_could_do_if_it_were_taken_over(
    system: Booted, unit: str, can: Mapping[str, str]
):
    """Little but write its state, and the repository, with what an image's files may be."""
    state = system.base / "var/lib/duccmake"
    for path in (state / "probe", state / "vda", state / "log"):
        path.unlink(missing_ok=True)
    system.systemctl("start", f"probe-{unit}.service")
    found = json.loads((system.base / f"said/probe-{unit}").read_text())
    del found["bounds"]
    assert found == {**can, "user": ID, "no new privileges": 1}


@pytest.mark.parametrize("unit", ["duccmake", "duccmake-watch"])
def test_a_set_user_id_program_of_cvmfs_server_may_mount_for_all(system: Booted, unit: str):
    system.systemctl("start", f"owned-{unit}.service")
    found = json.loads((system.base / f"said/owned-{unit}").read_text())
    # It has no privileges of its own, and nothing keeps such a program from having some.
    wanted = {
        "mount": "EPERM",
        "become root": "EPERM",
        "write the system": "EACCES",
        "see other processes": "done",
        "no new privileges": 0,
        "bounds": bounds(),
    }
    assert {name: found[name] for name in wanted} == wanted


def bounds() -> str:
    """The capabilities that programs of this machine can have at most."""
    return Path("/proc/self/status").read_text().partition("CapBnd:\t")[2].splitlines()[0]
