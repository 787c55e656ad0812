"""What others make of the same image: umoci, the kernel's overlayfs, podman.

Nothing here uses duccmake's reader, unpacker or flattener.
"""

# Paths here are bytes, or seen from a changed root:
# ruff: noqa: PTH101, PTH102, PTH103, PTH108, PTH112, PTH114, PTH118, PTH119, PTH120, PTH208, PTH211
from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from io import BytesIO
from pathlib import Path

import pytest

from duccmake.demo.images import Image
from duccmake.oci.reference import Digest
from support.images import Layer, write_oci_layout

ROOT = os.geteuid() == 0
_libc = ctypes.CDLL(None, use_errno=True)
_MS_RDONLY = 1
_MNT_DETACH = 2


# --- umoci ---------------------------------------------------------------


def umoci(layers: Sequence[Layer], base: Path) -> Path:
    """The root file system that ``umoci unpack`` makes of the image; `ValueError` if it refuses."""
    base.mkdir(parents=True, exist_ok=True)
    write_oci_layout(Image(tuple(layers)), base / "oci", "t")
    done = subprocess.run(
        ["umoci", "unpack", "--image", "oci:t", "bundle"],
        cwd=base,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(done.stderr.strip()[-500:])
    return base / "bundle" / "rootfs"


# --- the kernel's overlayfs ----------------------------------------------


def _mount(kind: str, target: Path, flags: int, options: str) -> None:
    arguments = (kind, os.fsencode(target), kind, flags, options)
    encoded = [value.encode() if isinstance(value, str) else value for value in arguments]
    if _libc.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[4]):
        code = ctypes.get_errno()
        raise OSError(code, f"mount {kind} {options[:200]}: {os.strerror(code)}", str(target))


def _unmount(target: Path) -> None:
    if _libc.umount2(os.fsencode(target), _MNT_DETACH):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


@contextmanager
def tmpfs(target: Path, size: str) -> Iterator[Path]:
    """A file system of ``size`` bytes."""
    target.mkdir(parents=True, exist_ok=True)
    _mount("tmpfs", target, 0, f"size={size}")
    try:
        yield target
    finally:
        _unmount(target)


@contextmanager
def overlay(lower: Sequence[Path], base: Path, *, upper: Path | None = None) -> Iterator[Path]:
    """The directories ``lower``, lowest first, as the kernel's overlayfs shows them.

    With ``upper`` it can be written.
    """
    # The kernel takes a page of options: with short names, some hundreds of layers.
    links = Path(tempfile.mkdtemp(prefix="o"))
    (links / "m").mkdir()
    (links / "empty").mkdir()
    for number, directory in enumerate(lower):
        (links / str(number)).symlink_to(directory)
    # overlayfs wants two layers at least; the lowest, an empty one, changes nothing.
    names = [f"{links}/{number}" for number in reversed(range(len(lower)))] + [f"{links}/empty"]
    if upper is not None:
        work = base / "work"
        work.mkdir(parents=True)
        options = f"upperdir={upper},workdir={work},lowerdir={':'.join(names)}"
        _mount("overlay", links / "m", 0, options)
    else:
        if len(names) == 1:
            (links / "empty2").mkdir()
            names.append(f"{links}/empty2")
        _mount("overlay", links / "m", _MS_RDONLY, f"lowerdir={':'.join(names)}")
    try:
        yield links / "m"
    finally:
        _unmount(links / "m")
        shutil.rmtree(links)


@contextmanager
def snapshotter(repository: Path, layers: Sequence[Digest], base: Path) -> Iterator[Path]:
    """A container's root as containerd has it from the snapshotter of CernVM-FS.

    That looks each layer up by its digest, binds it to the directory of a snapshot,
    and containerd mounts these in the manifest's order, with one to write to on top.
    """
    with ExitStack() as mounts:
        snapshots = []
        for number, digest in enumerate(layers):
            snapshot = base / "snapshots" / str(number) / "fs"
            snapshot.mkdir(parents=True)
            found = repository / ".layers" / digest.hex[:2] / digest.hex / "layerfs"
            subprocess.run(["mount", "--bind", found, snapshot], check=True)
            mounts.callback(_unmount, snapshot)
            snapshots.append(snapshot)
        upper = base / "snapshots" / "upper"
        upper.mkdir(parents=True)
        yield mounts.enter_context(overlay(snapshots, base, upper=upper))


@contextmanager
def fuse_overlay(lower: Sequence[Path], base: Path) -> Iterator[Path]:
    """The same by fuse-overlayfs."""
    target = base / "fuse"
    target.mkdir(parents=True)
    (base / "fuse-empty").mkdir()
    names = [*(str(path) for path in reversed(lower)), str(base / "fuse-empty")]
    subprocess.run(
        ["fuse-overlayfs", "-o", f"lowerdir={':'.join(names)}", str(target)],
        check=True,
        capture_output=True,
    )
    try:
        yield target
    finally:
        # Set to root's rights: it unmounts for those who mounted.
        subprocess.run(["fusermount3", "-u", "-z", str(target)], check=True)


def let_everybody_use_fuse() -> None:
    """As udev has it; where there is none, the device may be root's alone."""
    device = Path("/dev/fuse")
    if device.exists():
        device.chmod(0o666)


@contextmanager
def extracted(layers: Sequence[Layer], base: Path) -> Iterator[Path]:
    """The layers extracted one after the other, each onto an overlay of those below it.

    Python's ``tarfile`` reads them; a child that is confined to the tree by
    chroot(2) applies them with plain system calls, so that it is the kernel that
    follows symlinks, replaces, and removes.
    """
    uppers: list[Path] = []
    with ExitStack() as mounts:
        for number, layer in enumerate(layers):
            directory = base / str(number)
            upper = directory / "upper"
            upper.mkdir(parents=True)
            upper.chmod(0o755)
            if uppers:
                # The topmost root is the one that shows.
                below = uppers[-1].stat()
                os.chown(upper, below.st_uid, below.st_gid)
                upper.chmod(stat.S_IMODE(below.st_mode))
                os.utime(upper, ns=(below.st_mtime_ns, below.st_mtime_ns))
            with overlay(uppers, directory, upper=upper) as merged:
                _in_child(merged, layer.tar)
            uppers.append(upper)
        yield mounts.enter_context(overlay(uppers, base / "all"))


def _in_child(root: Path, tar: bytes) -> None:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(read)
            os.chroot(root)
            os.chdir("/")
            os.umask(0)
            _apply(tar)
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode(errors="replace")[:4000])
            os._exit(1)
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        said = pipe.read()
    if os.waitpid(child, 0)[1]:
        raise ValueError(said.decode(errors="replace"))


def _apply(tar: bytes) -> None:
    """image-spec, layer.md: whiteouts act on lower layers, then come the members in order."""
    if not tar:
        return
    with tarfile.open(
        fileobj=BytesIO(tar), mode="r:", encoding="utf-8", errors="surrogateescape"
    ) as archive:
        members = [(_clean(member.name), member) for member in archive]
        times = _directory_times()
        for path, _ in members:
            parent, name = os.path.split(path)
            parent = os.path.realpath(parent)
            if name == ".wh..wh..opq":
                for child in os.listdir(parent) if os.path.isdir(parent) else ():
                    _remove(f"{parent}/{child}")
            elif name.startswith(".wh."):
                _remove(f"{parent}/{name[4:]}")
        for path, member in members:
            if not os.path.basename(path).startswith(".wh."):
                _put(archive, path, member, times)
    for path, mtime_ns in sorted(times.items(), reverse=True):
        if os.path.isdir(path) and not os.path.islink(path):
            os.utime(path, ns=(mtime_ns, mtime_ns))


def _clean(name: str) -> str:
    return os.path.normpath("/" + name.lstrip("/"))


def _directory_times() -> dict[str, int]:
    """What a layer does not mention keeps its time."""
    times = {}
    for directory, below, _ in os.walk("/"):
        times[directory] = os.lstat(directory).st_mtime_ns
        for name in below:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                times[path] = os.lstat(path).st_mtime_ns
    return times


def _remove(path: str) -> None:
    if not os.path.lexists(path):
        return
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _parent(path: str) -> str:
    """Where symlinks lead from a path's parent; one that leads to a file is removed before."""
    at = ""
    for part in os.path.dirname(path).split("/")[1:]:
        at = f"{at}/{part}"
        real = os.path.realpath(at)
        while not os.path.lexists(real):
            real = os.path.dirname(real)
        if os.path.islink(at) and not os.path.isdir(real):
            os.unlink(at)
    return os.path.realpath(os.path.dirname(path))


def _put(
    archive: tarfile.TarFile, path: str, member: tarfile.TarInfo, times: dict[str, int]
) -> None:
    parent = _parent(path)
    if os.path.islink(parent):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), parent)
    _make_way(parent, times)
    path = os.path.join(parent, os.path.basename(path)) if path != "/" else "/"
    is_directory = os.path.isdir(path) and not os.path.islink(path)
    if member.islnk():
        source = _clean(member.linkname)
        source = os.path.join(os.path.realpath(os.path.dirname(source)), os.path.basename(source))
        if os.path.lexists(path) and os.path.samestat(os.lstat(source), os.lstat(path)):
            return
        _remove(path)
        os.link(source, path, follow_symlinks=False)
        return
    if not (member.isdir() and is_directory):
        _remove(path)
        for known in [known for known in times if (known + "/").startswith(path + "/")]:
            del times[known]
    if member.isdir():
        os.makedirs(path, exist_ok=True)
        for name in os.listxattr(path):
            os.removexattr(path, name)
    elif member.issym():
        os.symlink(member.linkname, path)
    elif member.isfile():
        with open(path, "wb") as out:
            content = archive.extractfile(member)
            assert content is not None
            shutil.copyfileobj(content, out)
    else:
        kind = stat.S_IFIFO
        if member.ischr() or member.isblk():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
        os.mknod(path, kind | 0o600, os.makedev(member.devmajor, member.devminor))
    _attributes(path, member, times)


def _make_way(path: str, times: dict[str, int]) -> None:
    """Missing parents: 0755, of root, of no particular time."""
    if not os.path.isdir(path):
        _make_way(os.path.dirname(path), times)
        _remove(path)
        os.mkdir(path, 0o755)
        times[path] = 0


def _attributes(path: str, member: tarfile.TarInfo, times: dict[str, int]) -> None:
    os.chown(path, member.uid, member.gid, follow_symlinks=False)
    if not member.issym():
        os.chmod(path, member.mode & 0o7777)
    prefix = "SCHILY.xattr."
    for key, value in member.pax_headers.items():
        if key.startswith(prefix) and not key.startswith((f"{prefix}trusted.overlay", "user.over")):
            raw = value.encode("utf-8", "surrogateescape")
            os.setxattr(path, key[len(prefix) :], raw, follow_symlinks=False)
    mtime_ns = int(Decimal(member.pax_headers.get("mtime", str(member.mtime))).scaleb(9))
    if member.isdir():
        times[path] = mtime_ns
    os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)


# --- podman --------------------------------------------------------------


@contextmanager
def podman(layers: Sequence[Layer], base: Path, driver: str) -> Iterator[Path]:
    """The tree that ``podman image mount`` shows; `ValueError` if podman refuses the image."""
    base.mkdir(parents=True)
    write_oci_layout(Image(tuple(layers)), base / "oci", "t")
    # podman refuses a long path for this.
    state = tempfile.mkdtemp(prefix="podman")
    command = ["podman", "--root", f"{base}/root", "--runroot", state]
    command += ["--storage-driver", driver]

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [*command, *arguments], cwd=base, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ValueError(done.stderr.strip()[-500:])
        return done.stdout.strip()

    try:
        identity = run("pull", "--quiet", "oci:oci:t").splitlines()[-1]
        yield Path(run("image", "mount", identity))
        run("image", "unmount", identity)
    finally:
        for mounted in (base / "root" / driver, base / "root"):
            _libc.umount2(os.fsencode(mounted), _MNT_DETACH)
        shutil.rmtree(state, ignore_errors=True)


# --- what works here -----------------------------------------------------


def _can_overlay() -> bool:
    with tempfile.TemporaryDirectory() as base:
        upper = Path(base) / "upper"
        upper.mkdir()
        try:
            with overlay([], Path(base), upper=upper):
                return True
        except OSError:
            return False


def _can_podman() -> bool:
    done = subprocess.run(
        ["podman", "version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )
    return not done.returncode


needs_root = pytest.mark.skipif(not ROOT, reason="needs root: owners, devices, mounts")
needs_overlay = pytest.mark.skipif(
    not (ROOT and _can_overlay()), reason="needs root and the kernel's overlayfs"
)
needs_umoci = pytest.mark.skipif(
    not (ROOT and shutil.which("umoci")), reason="needs root and umoci on PATH"
)
needs_podman = pytest.mark.skipif(
    not (ROOT and shutil.which("podman") and _can_podman()), reason="needs root and podman"
)
needs_fuse_overlayfs = pytest.mark.skipif(
    not (ROOT and shutil.which("fuse-overlayfs") and Path("/dev/fuse").exists()),
    reason="needs root, fuse-overlayfs and /dev/fuse",
)
