"""Files in chunks, and grafts: what ``cvmfs_server publish`` does with them in a directory."""

import os
import stat
import tempfile
from pathlib import Path

from duccmake.cvmfs.codec import decompress
from duccmake.cvmfs.names import Kind
from duccmake.cvmfs.objects import Objects

_LARGEST = 16 * 1024 * 1024


class BadGraft(Exception):
    """A file that a graft's marker tells of wrongly."""


def is_chunked(path):
    try:
        return int(os.getxattr(path, "user.chunks")) > 1
    except OSError:
        return False


def chunks_of(path):
    """The chunks of a file: name in hex, offset, size."""
    rows = os.getxattr(path, "user.chunk_list").decode().splitlines()[1:]
    return [(name, int(at), int(size)) for name, at, size in (row.split(",") for row in rows)]


def say_chunks(path, chunks, compression="zlib"):
    """Say of a file, as the client does, which chunks it consists of."""
    rows = ["hash,offset,size", *(f"{name},{at},{size}" for name, at, size in chunks)]
    os.setxattr(path, "user.chunks", str(len(chunks)).encode())
    os.setxattr(path, "user.chunk_list", "\n".join(rows).encode() + b"\n")
    os.setxattr(path, "user.compression", compression.encode())


def chunk_and_graft(tree, settings, storage):
    """What ``publish`` does with files above the chunk size, and with grafts."""
    limit = int(settings.get("CVMFS_MAX_CHUNK_SIZE", _LARGEST))
    for directory, _, files in os.walk(tree):
        for name in sorted(files):
            if name.startswith(".cvmfsgraft-"):
                _graft(Path(directory, name), storage)
    if settings.get("CVMFS_USE_FILE_CHUNKING", "true") != "true":
        return
    for directory, _, files in os.walk(tree):
        for name in files:
            path = Path(directory, name)
            found = path.lstat()
            if stat.S_ISREG(found.st_mode) and found.st_size > limit and not is_chunked(path):
                content = path.read_bytes()
                pieces = [(at, content[at : at + limit]) for at in range(0, len(content), limit)]
                say_chunks(path, [(_store(piece, storage), at, len(piece)) for at, piece in pieces])


def _store(piece, storage):
    with tempfile.TemporaryDirectory() as directory:
        objects = Objects(Path(directory))
        digest = objects.put(piece, Kind.CHUNK).hex()
        storage.put_all(objects.directory, objects.names)
    return digest


def _graft(marker, storage):
    values = dict(line.split("=", 1) for line in marker.read_text().splitlines() if "=" in line)
    path = marker.with_name(marker.name.removeprefix(".cvmfsgraft-"))
    found = path.lstat()
    names = values["chunk_checksums"].split(",")
    content = b"".join(decompress(storage.get(name + Kind.CHUNK)) for name in names)
    if found.st_nlink > 1 or len(content) != int(values["size"]):
        raise BadGraft(f"Encountered a grafted file ({path}) with invalid grafting information")
    offsets = [int(offset) for offset in values["chunk_offsets"].split(",")]
    path.write_bytes(content)
    ends = zip(names, offsets, [*offsets[1:], len(content)], strict=True)
    chunks = [(name, at, end - at) for name, at, end in ends]
    say_chunks(path, chunks, values.get("compression", "zlib"))
    os.chmod(path, stat.S_IMODE(found.st_mode))
    os.chown(path, found.st_uid, found.st_gid)
    os.utime(path, ns=(found.st_mtime_ns, found.st_mtime_ns))
    parent = marker.parent.stat()
    marker.unlink()
    os.utime(marker.parent, ns=(parent.st_mtime_ns, parent.st_mtime_ns))
