"""Archives made of lists of members, and at random."""

from __future__ import annotations

import io
import os
import random
import tarfile
from typing import Any

from duccmake.layer.place import PIECE

OWNER = (os.geteuid(), os.getegid())
"""Whom members belong to: nobody else is needed to unpack them."""


def random_archive(seed: int) -> bytes:
    """Files, directories, symlinks and hard links over few names, so that they collide."""
    rng = random.Random(seed)
    names = ["a", "b", ".c", "d" * 120]
    members: list[tuple[str, bytes, dict[str, Any]]] = []
    files: list[str] = []
    for _ in range(rng.choice((30, 300, 3000))):
        # Paths of directories begin with "D", so that no file is ever a parent.
        parents = ["D" + rng.choice(names) for _ in range(rng.randrange(4))]
        path = "/".join([*parents, rng.choice(names)])
        more: dict[str, Any] = {
            "mode": rng.choice((0o644, 0o4755, 0 if os.geteuid() == 0 else 0o400)),
            "mtime": rng.randrange(2**31),
        }
        kind = rng.randrange(8)
        if kind == 0 and parents:
            members.append(("/".join(parents), b"", {**more, "type": tarfile.DIRTYPE}))
        elif kind == 1:
            members.append((path, b"", {**more, "type": tarfile.SYMTYPE, "linkname": "a"}))
        elif kind == 2 and files:
            members.append(
                (path, b"", {**more, "type": tarfile.LNKTYPE, "linkname": rng.choice(files)})
            )
        else:
            size = rng.choice((0, 1, 511, 512, 513, 5000, PIECE, PIECE + 1, 3_000_000))
            size = size if size < 10_000 or rng.random() < 0.02 else 7
            members.append((path, rng.randbytes(size), more))
            files.append(path)
    return archive(members)


def archive(members: list[tuple[str, bytes, dict[str, Any]]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content, more in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.uid, info.gid = OWNER
            for key, value in more.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()
