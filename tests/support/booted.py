"""A systemd of its own, the init of a few namespaces, with nothing but the units it is given.

The file system is the host's, but for what services have to themselves: ``/etc``, ``/opt``,
``/run``, ``/srv``, ``/var/cache`` and ``/var/lib``.  The network is the host's too.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.runs import checkout_copy
from support.servers import need

INIT = "/lib/systemd/systemd"
USER = "duccmake"
ID = 61_000
"""Of the services' user and group: nobody else's."""

_OUTER = r"""
set -eu
base=$1 group=$2
mount --make-rprivate /
mount -t cgroup2 cgroup2 "$base/cgroup"
mkdir "$base/cgroup/$group"
echo $$ > "$base/cgroup/$group/cgroup.procs"
exec unshare --mount --cgroup --pid --uts --ipc --fork --kill-child sh -c "$3" sh "$base" "$4" "$5"
"""

_INNER = r"""
set -eu
base=$1
mount --make-rprivate /
mount -t proc proc /proc
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind "$2/lib" "$base/opt/duccmake/.venv/lib"
mount --bind "$3" "$base/opt/python"
mount -t tmpfs tmpfs "$base/merged"
cp -a "$base/etc" "$base/merged/upper"
mkdir "$base/merged/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$base/merged/upper,workdir=$base/merged/work" etc /etc
for place in opt srv var/cache var/lib; do mount --rbind "$base/$place" "/$place"; done
mount -t tmpfs tmpfs /run
cp -a "$base/units" /run/units
exec env -i PATH=/usr/bin:/bin container=tests SYSTEMD_UNIT_PATH=/run/units \
    NOTIFY_SOCKET="$base/notify" /lib/systemd/systemd --system --unit=tests.target \
    --log-target=console --show-status=no
"""

_REMOVE = r"""
mount --make-rprivate /
mount -t cgroup2 cgroup2 "$1/cgroup"
find "$1/cgroup/$2" -depth -type d -exec rmdir {} +
"""

_TARGETS = ("basic", "network", "network-online", "shutdown", "sysinit", "tests", "timers")


class Booted:
    """The systemd that has booted, with the process ``init``."""

    def __init__(self, base: Path, init: int) -> None:
        self.base = base
        self._enter = ["nsenter", f"--target={init}", "--mount", "--pid"]

    def systemctl(self, *arguments: str) -> str:
        """What ``systemctl`` prints; it has to end well, or what the units said is shown."""
        done = subprocess.run(
            [*self._enter, "systemctl", *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.said()
        return done.stdout.strip()

    def said(self) -> str:
        """All that the units' programs have printed."""
        said = sorted((self.base / "said").iterdir())
        return "".join(f"--- {path.name}\n{path.read_text(errors='replace')}" for path in said)

    def shows(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", "--value", f"--property={name}", unit)


@contextmanager
def booted(base: Path, units: Mapping[str, str], etc: Mapping[str, str]) -> Iterator[Booted]:
    """Boot with the units for as long as the block, and with what is in ``/etc/duccmake``."""
    _prepare(base, units)
    for name, text in etc.items():
        (base / "etc/duccmake" / name).write_text(text)
        if name.endswith("environment"):
            (base / "etc/duccmake" / name).chmod(0o600)
    group = f"duccmake-tests-{os.getpid()}"
    own = ["unshare", "--mount", "sh", "-c"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, (base / "log").open("wb") as log:
        told.bind(str(base / "notify"))
        told.settimeout(60)
        process = subprocess.Popen(
            [*own, _OUTER, "sh", str(base), group, _INNER, sys.prefix, sys.base_prefix],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        init = 0
        try:
            init = _booted(process, told, base / "log")
            yield Booted(base, init)
        finally:
            _end(process, init)
            subprocess.run([*own, _REMOVE, "sh", str(base), group], check=False)


def _booted(process: subprocess.Popen[bytes], told: socket.socket, log: Path) -> int:
    """Wait until it has booted; its number."""
    try:
        while b"READY=1" not in told.recv(4096):
            pass
    except TimeoutError:
        raise AssertionError(f"systemd does not boot: {log.read_text()}") from None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return int(children.split()[0])


def _end(process: subprocess.Popen[bytes], init: int) -> None:
    """Kill it, and wait until all that it had started is gone: then so is the namespaces' init."""
    descriptor = os.pidfd_open(init) if init else -1
    process.kill()
    process.wait()
    if init:
        select.select([descriptor], [], [])
        os.close(descriptor)


def _prepare(base: Path, units: Mapping[str, str]) -> None:
    """The directories that services see, with the workflow's programs in ``/opt/duccmake``."""
    for program in ("unshare", "nsenter", "systemctl"):
        need(program)
    for name in ("cgroup", "etc/duccmake", "merged", "opt/python", "said", "srv", "units"):
        (base / name).mkdir(parents=True)
    for name in ("var/cache", "var/lib"):
        (base / name).mkdir(parents=True)
    (base / "srv/cvmfs").mkdir()
    os.chown(base / "srv/cvmfs", ID, ID)
    for name, line in (("passwd", f"{USER}:x:{ID}:{ID}::/nonexistent:/bin/false"), ("group", "")):
        line = line or f"{USER}:x:{ID}:"
        (base / "etc" / name).write_text(Path("/etc", name).read_text().rstrip() + f"\n{line}\n")
    for target in _TARGETS:
        (base / f"units/{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    (base / "units/service.d").mkdir()
    told = f"[Service]\nStandardOutput=append:{base}/said/%N\nStandardError=inherit\n"
    told += "Environment=LD_LIBRARY_PATH=/opt/python/lib\n"
    (base / "units/service.d/tests.conf").write_text(told)
    for name, text in units.items():
        (base / "units" / name).parent.mkdir(exist_ok=True)
        (base / "units" / name).write_text(text)
    _install(base / "opt/duccmake")


def _install(checkout: Path) -> None:
    """A checkout with its ``.venv``, whose interpreter is in ``/opt/python``."""
    checkout_copy(checkout)
    venv = checkout / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "lib").mkdir()
    shutil.copy(Path(sys.prefix, "pyvenv.cfg"), venv)
    config = re.sub(r"^home *=.*", "home = /opt/python/bin", (venv / "pyvenv.cfg").read_text())
    (venv / "pyvenv.cfg").write_text(config)
    program = Path(sys.executable).resolve().relative_to(Path(sys.base_prefix).resolve())
    (venv / "bin/python").symlink_to(f"/opt/python/{program}")
    snakemake = Path(sys.executable).with_name("snakemake").read_text().splitlines()[1:]
    lines = ["#!/opt/duccmake/.venv/bin/python", *snakemake]
    (venv / "bin/snakemake").write_text("\n".join(lines) + "\n")
    (venv / "bin/snakemake").chmod(0o755)
