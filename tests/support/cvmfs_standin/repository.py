"""A repository of the stand-in's: its settings, locks, storage, and what its mounts show."""

import fcntl
import os
import shutil
import stat
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from history import History
from reflog import note

from duccmake.cvmfs.manifest import Manifest
from duccmake.cvmfs.names import Kind
from duccmake.cvmfs.objects import Objects
from duccmake.cvmfs.revision import Revision
from duccmake.cvmfs.storage import PUBLISHED
from duccmake.cvmfs.storage.local import LocalStorage

BASE = Path(os.environ["CVMFS_STANDIN"])
_PIN = "CVMFS_ROOT_HASH="
_BUSY = """\
WARNING: The repository {name} is currently publishing and should not
be touched. If you are absolutely sure, that this is _not_ the case,
please run the following command and retry:

   rm -fR {lock}
"""


def die(message, status=1):
    print(message, file=sys.stderr, flush=True)
    sys.exit(status)


def sign(storage_directory, manifest):
    """Publish a manifest: there is no key, and nobody who would look at the signature."""
    fields = dict(manifest.fields) | {"T": str(int(time.time())), "X": "0" * 40}
    manifest = manifest.changed(**fields)
    new = Path(storage_directory, f".new-{os.getpid()}")
    new.write_bytes(manifest.unsigned() + b"--\nstand-in\n\nsigned")
    new.rename(new.with_name(PUBLISHED))


class Repository:
    def __init__(self, name):
        self.name = name
        config = BASE / "etc" / name / "server.conf"
        if not config.is_file():
            die(f"The repository {name} does not exist.")
        self.settings = {
            key: value.strip("'\"")
            for key, _, value in (line.partition("=") for line in config.read_text().splitlines())
        }
        self.spool = Path(self.settings["CVMFS_SPOOL_DIR"])
        self.flag = self.spool / "in_transaction.lock"
        self.lock = self.spool / "is_publishing.lock"
        self.union = BASE / "cvmfs" / name
        self.rdonly = self.spool / "rdonly"
        self.revisions = BASE / "revisions" / name
        self.scratch = self.spool / "scratch"
        self.gateway = self.settings.get("CVMFS_UPSTREAM_STORAGE", "").startswith("gw,")
        self.lease = self.spool / "lease"
        self.client = self.spool / "client.local"
        self.directory = BASE / "storage" / name

    @cached_property
    def storage(self):
        """Where objects are; what a gateway takes is there as well."""
        return LocalStorage(self.directory, self.directory / "data/txn")

    @property
    def collects(self):
        """Whether it is one whose garbage may be collected."""
        return self.settings.get("CVMFS_GARBAGE_COLLECTION") == "true"

    # --- revisions ------------------------------------------------------

    def manifest(self):
        return Manifest.parse(self.storage.file(PUBLISHED))

    def revision(self):
        return self.manifest().revision

    def current(self):
        """The directory that shows what is published."""
        return self.tree(self.manifest().get("C"))

    def tree(self, root):
        """The directory that shows the revision of a root catalog."""
        from shown import Shown

        with self.opened(root) as revision:
            number = revision.catalog(b"").properties()["revision"]
            tree = self.revisions / number
            if not tree.exists():
                Shown(BASE / "cache").make(revision, tree)
        return tree

    def opened(self, root):
        return Revision(self.storage, bytes.fromhex(root))

    @contextmanager
    def history(self, manifest):
        """The tags; what was done to them is stored at the end, under the name it has then."""
        stored = manifest.get("H")
        with History.read(self.storage.get(stored + Kind.HISTORY) if stored else b"") as history:
            yield history

    # --- mounts ---------------------------------------------------------

    def show(self, tree):
        """Unmount what is published, and mount a revision: in between there is nothing."""
        for mount in (self.union, self.rdonly):
            self.unmount(mount)
        time.sleep(0.02)
        for mount in (self.rdonly, self.union):
            self.mount(mount, tree)

    def unmount(self, mount):
        if mount.is_symlink():
            mount.unlink()
        mount.mkdir(exist_ok=True)

    def mount(self, mount, tree):
        mount.rmdir()
        mount.symlink_to(tree)

    def switch(self, tree):
        """Have the mounts show a revision without unmounting them, as clients change over."""
        for mount in (self.rdonly, self.union):
            new = mount.with_name(f".{mount.name}-{os.getpid()}")
            new.symlink_to(tree)
            new.rename(mount)

    def show_newest(self):
        self.show(self.current())
        if not self.gateway:
            self.pin(self.manifest().get("C"))

    def show_pinned(self):
        self.show(self.pinned_tree())

    def pinned_tree(self):
        root = self._pinned()
        return self.tree(root) if root and not self.gateway else self.current()

    def pin(self, root):
        self.client.write_text(f"{_PIN}{root}\n")

    def _pinned(self):
        lines = self.client.read_text().split() if self.client.exists() else []
        return next((line.partition("=")[2] for line in lines if line.startswith(_PIN)), "")

    # --- locks ----------------------------------------------------------

    def is_publishing(self):
        try:
            with self.lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def busy(self):
        return _BUSY.format(name=self.name, lock=self.lock)

    @contextmanager
    def publishing(self):
        """Hold the lock of who publishes."""
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            die("Failed to acquire publishing lock")
        try:
            yield
        finally:
            self.lock.unlink(missing_ok=True)
            os.close(descriptor)

    # --- transactions ---------------------------------------------------

    def open(self, path=""):
        if self.flag.exists():
            die("CernVM-FS transaction error: another transaction is already open", 17)
        is_stale = self.rdonly.is_symlink() and self.rdonly.readlink() != self.current()
        if is_stale and self.is_publishing():  # mounting what is newest takes the lock
            die(self.busy() + "(unexpected termination) cannot establish writable mountpoint")
        try:
            os.close(os.open(self.flag, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            die("CernVM-FS transaction error: another transaction is already open", 17)
        if self.gateway:
            self.take_lease(path)
            self.catch_up()
        elif is_stale:
            self.show_newest()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def take_lease(self, path):
        parent = self.current() / Path(path).parent
        if path and not parent.is_dir():
            self.flag.unlink()
            die(
                f"CernVM-FS transaction error: cannot open transaction on non-existing path {path}",
                2,
            )
        leases = BASE / "leases"
        leases.mkdir(exist_ok=True)
        mine = Path("/", path)
        for other in leases.iterdir():
            theirs = Path(other.read_text())
            if mine == theirs or mine in theirs.parents or theirs in mine.parents:
                self.flag.unlink()
                die("CernVM-FS transaction error: lease path busy", 16)
        self.lease.write_text(str(mine))
        (leases / str(self.spool).replace("/", "%")).write_text(str(mine))

    def catch_up(self):
        """Mount what another publisher has published, and pin the mount to it."""
        if self.rdonly.readlink() != self.current():
            self.show(self.current())
            self.pin(self.manifest().get("C"))

    def close(self):
        shutil.rmtree(self.scratch, ignore_errors=True)
        for path in (self.spool / "tmp").iterdir():  # whatever it is and whoever needs it
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        (BASE / "leases" / str(self.spool).replace("/", "%")).unlink(missing_ok=True)
        self.flag.unlink(missing_ok=True)

    def abort(self):
        if not self.flag.exists():
            die(f"Repository {self.name} is not in a transaction", 22)
        with self.publishing():
            self.show_newest()
            self.close()

    def copy(self, copy_file):
        """A writable copy of what is published."""
        current = self.current()
        shutil.copytree(current, self.scratch, symlinks=True, copy_function=copy_file)
        for directory, below, _ in os.walk(current):
            for name in below:
                keep(
                    Path(directory, name), self.scratch / Path(directory, name).relative_to(current)
                )
        keep(current, self.scratch)

    # --- publishing -----------------------------------------------------

    def commit(self):
        """Publish what is in the copy."""
        manifest = self.manifest()
        with self.opened(manifest.get("C")) as old:
            root, number, ttl = self._write(old, self.tree(manifest.get("C")), self.scratch)
        self.publish(
            manifest.changed(C=root.hash, B=str(root.size), S=str(number), D=ttl), self.new_tag()
        )
        pinned = self._pinned()
        if self.gateway and pinned:
            self.show(self.tree(pinned))  # the mount stays where it was
        else:
            self.show_newest()
        self.close()

    def first(self, tree):
        """Publish the first revision."""
        root, number, ttl = self._write(None, None, tree)
        fields = {"C": root.hash, "B": str(root.size), "R": "d41d8cd98f00b204e9800998ecf8427e"}
        fields |= {"D": ttl, "S": str(number), "G": "no", "A": "no", "N": self.name}
        self.publish(Manifest(tuple(fields.items())), "")

    def _write(self, old, before, tree):
        """Store the catalogs and objects of a directory; the root, its revision and its TTL."""
        from snapshot import Snapshot

        now = int(time.time())
        with tempfile.TemporaryDirectory(dir=self.spool / "tmp") as made:
            objects = Objects(Path(made))
            written = Snapshot(old, before, tree, objects, self.settings, now).write()
            for name in objects.names:
                self.storage.put_all(objects.directory, [name])
        with self.opened(written.hash) as revision:
            properties = revision.catalog(b"").properties()
        return written, int(properties["revision"]), properties.get("TTL", "240")

    def publish(self, manifest, tag):
        """Sign a manifest whose objects are all there, with a tag."""
        manifest = manifest.changed(G="yes" if self.collects else "no")
        manifest = self.tagged(manifest, lambda history: history.publish(manifest, tag))
        note(self.directory, manifest)
        sign(self.directory, manifest)

    def tagged(self, manifest, change):
        """A manifest with what ``change`` makes of the tags."""
        with self.history(manifest) as history:
            change(history)
            content = history.content()
        with tempfile.TemporaryDirectory(dir=self.spool / "tmp") as made:
            objects = Objects(Path(made))
            digest = objects.put(content, Kind.HISTORY).hex()
            self.storage.put_all(objects.directory, [digest + Kind.HISTORY])
        return manifest.changed(H=digest)

    def new_tag(self):
        if self.settings.get("CVMFS_AUTO_TAG") != "true":
            return ""
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with self.history(self.manifest()) as history:
            known = history.names()
        name, number = f"generic-{moment}", 1
        while name in known:
            name, number = f"generic_{number}-{moment}", number + 1
        return name

    # --- open files -----------------------------------------------------

    def ask_about_open_files(self):
        if not self.has_open_files():
            return
        print("WARNING! There are open read-only file descriptors", flush=True)
        print("         Do you want to proceed anyway? (y/N) ", end="", flush=True)
        if sys.stdin.readline().strip() not in ("y", "Y"):
            die("aborted.")

    def has_open_files(self):
        root = f"{self.current().resolve()}/"
        return any(opened.startswith(root) for opened in _opened())


def _opened():
    """What all processes have open."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is somebody else's
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    yield str(descriptor.readlink())


def link(source, target):
    """One more name of a file, for what replaces files and changes none."""
    if stat.S_ISREG(os.lstat(source).st_mode):
        os.link(source, target)
    else:
        _copy_special(source, target)


def copy(source, target):
    """A file of its own, for what may write into it."""
    if stat.S_ISREG(os.lstat(source).st_mode):
        shutil.copyfile(source, target)
        shutil.copystat(source, target)
        keep(source, target)
    else:
        _copy_special(source, target)


def _copy_special(source, target):
    found = os.lstat(source)
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(source), target)
    else:
        os.mknod(target, found.st_mode, found.st_rdev)
    keep(source, target)


def special(path, mode, device):
    """Make a special file, if that is for this user to make."""
    try:
        os.mknod(path, mode, device)
    except PermissionError:
        if os.geteuid() == 0:
            raise
        return False
    return True


def give(path, uid, gid):
    """Have somebody own a file, if that is for this user to say."""
    try:
        os.chown(path, uid, gid, follow_symlinks=False)
    except PermissionError:
        if os.geteuid() == 0:
            raise


def keep(source, target):
    """Give a file the attributes of another."""
    found = os.lstat(source)
    give(target, found.st_uid, found.st_gid)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(target, stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_mtime_ns, found.st_mtime_ns), follow_symlinks=False)
