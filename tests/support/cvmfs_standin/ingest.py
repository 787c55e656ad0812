"""What ``cvmfs_server ingest`` does with an archive, done to a directory."""

import os
import shutil
import stat

from chunks import is_chunked
from repository import give, keep, special

MARKER = ".cvmfscatalog"
OWNERLESS = 2**32 - 1
NOBODY = 65534
BLOCK = 512


class Panic(Exception):
    """swissknife gives up: the transaction is aborted."""


class Archive:
    """GNU tar and ustar, read strictly.

    An archive may end without its end, but not within a block.
    """

    def __init__(self, file):
        self.file = file

    def read(self, size):
        content = b""
        while len(content) < size:
            more = self.file.read(size - len(content))
            if not more:
                if not content:
                    return b""
                raise Panic("Fatal error in reading the archive.\nTruncated tar archive")
            content += more
        return content

    def content(self, size):
        content = self.read(size) if size else b""
        if len(content) != size:
            raise Panic("Fatal error in reading the archive.\nTruncated input file")
        padding = -size % BLOCK
        if padding and len(self.read(padding)) != padding:
            raise Panic("Fatal error in reading the archive.\nTruncated input file")
        return content

    def members(self):
        long = {}
        while (head := self.read(BLOCK)) and any(head):
            if number(head[148:156]) != sum(head[:148]) + 8 * 32 + sum(head[156:]):
                raise Panic("Fatal error in reading the archive.\nDamaged tar archive")
            kind = head[156:157]
            size = number(head[124:136])
            content = self.content(size)
            if kind == b"x":
                continue  # parts of a second, which most repositories do not keep
            if kind in b"LK":
                long[kind] = content.rstrip(b"\0")
                continue
            name = head[:100].rstrip(b"\0")
            if head[257:263] == b"ustar\0" and head[345]:
                name = head[345:500].rstrip(b"\0") + b"/" + name
            name = long.pop(b"L", name)
            target = long.pop(b"K", head[157:257].rstrip(b"\0"))
            yield {
                "name": name.removeprefix(b"./").rstrip(b"/"),
                "kind": kind,
                "mode": number(head[100:108]),
                "owner": (number(head[108:116]), number(head[116:124])),
                "mtime": number(head[136:148]),
                "link": target,
                "device": (number(head[329:337]), number(head[337:345])),
                "content": content,
            }


def number(field):
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        if field[0] == 0xFF:
            return value - (1 << (8 * len(field)))
        return value & ~(0x80 << (8 * (len(field) - 1)))
    text = field.split(b"\0")[0].strip()
    return int(text, 8) if text else 0


class Ingest:
    def __init__(self, repository, base):
        self.tree = os.fsencode(repository.scratch)
        self.old = os.fsencode(repository.current())
        self.base = b"" if base == "/" else os.fsencode(base).strip(b"/")
        if self.base and not os.path.isdir(self.tree + b"/" + self.base):
            os.mkdir(self.tree + b"/" + self.base, 0o775)
            give(self.tree + b"/" + self.base, NOBODY, NOBODY)
        # A gateway merges entry by entry into the root catalog, and passes over devices.
        self.drops_devices = repository.gateway and not self.base
        self.files = set()
        self.directories = {}
        self.links = {}
        self.marked = set()

    def path(self, name):
        return b"/".join(filter(None, (self.tree, self.base, name)))

    def delete(self, names):
        for name in names.split(":"):
            path = self.tree + b"/" + os.fsencode(name)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            elif os.path.lexists(path):
                os.unlink(path)

    def apply(self, members):
        for member in members:
            self.member(member)
        for target in sorted(self.links):
            for name in self.links[target]:
                self.clone(name, target)
        for directory in sorted(self.directories, reverse=True):
            path = self.path(directory)
            old = self.old + path[len(self.tree) :]
            if not os.path.isdir(old) or directory in self.marked:
                finish(path, self.directories[directory])
            else:
                keep(old, path)

    def member(self, member):
        name, kind = member["name"], member["kind"]
        parent, _, last = name.rpartition(b"/")
        self.invent(parent)
        if last == b".cvmfsbundles":
            raise Panic("Error: .cvmfsbundles file must be in the root directory")
        path = self.path(name)
        if kind == b"1":
            self.links.setdefault(member["link"].removeprefix(b"./"), []).append(name)
            if last == MARKER.encode():
                self.marked.add(parent)
            return
        if kind == b"5":
            if not os.path.lexists(path):
                os.mkdir(path, 0o700)
            if name not in self.directories or self.directories[name].get("invented"):
                self.directories[name] = member
            return
        if last == MARKER.encode():
            if kind != b"0":
                raise Panic("Found entity called as a catalog marker that is not a regular file")
            self.marked.add(parent)
        if kind == b"0":
            if name in self.files:
                raise Panic("Assertion `itr != file_queue_.end()' failed.")
            self.files.add(name)
        self.replace(path, member)

    def replace(self, path, member):
        kind = member["kind"]
        if kind in b"346" and self.drops_devices:
            return
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)
        if kind == b"0":
            with open(path, "xb") as out:
                out.write(member["content"])
        elif kind == b"2":
            os.symlink(member["link"], path)
        elif kind in b"346":
            bits = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"6": stat.S_IFIFO}[kind]
            if not special(path, bits | 0o600, os.makedev(*member["device"])):
                return
        else:
            raise Panic(f"Fatal error found unexpected file: {path!r}")
        finish(path, member)

    def invent(self, name):
        if not name or name in self.directories:
            return
        self.invent(name.rpartition(b"/")[0])
        path = self.path(name)
        self.directories[name] = {
            "invented": True,
            "mode": 0o775,
            "owner": (OWNERLESS, OWNERLESS),
            "mtime": 0,
        }
        if not os.path.lexists(path):
            os.mkdir(path, 0o700)
        elif not os.path.isdir(path):
            raise Panic(f"catalog for directory '{name!r}' cannot be found")

    def clone(self, name, target):
        source, path = self.path(target), self.path(name)
        if not os.path.lexists(source):
            raise Panic(f"catalog for file '{os.fsdecode(target)}' cannot be found, aborting")
        if os.path.isdir(source) and not os.path.islink(source):
            raise Panic(f"Trying to clone a directory: '{os.fsdecode(target)}', aborting")
        if os.path.lexists(path):
            os.unlink(path)
        found = os.lstat(source)
        if os.path.islink(source):
            os.symlink(os.readlink(source), path)
        elif stat.S_ISREG(found.st_mode):
            shutil.copyfile(source, path)
            if is_chunked(source):
                os.truncate(path, 0)  # the real one gives an Input/output error
        else:
            special(path, found.st_mode, found.st_rdev)
        keep(source, path)


def finish(path, member):
    uid, gid = member["owner"]
    os.chown(
        path,
        uid if uid != OWNERLESS else 65534,
        gid if gid != OWNERLESS else 65534,
        follow_symlinks=False,
    )
    if not os.path.islink(path):
        os.chmod(path, member["mode"])
    os.utime(path, (member["mtime"], member["mtime"]), follow_symlinks=False)
