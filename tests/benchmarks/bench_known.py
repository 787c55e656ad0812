"""The index of known content: its size, how long it takes, and how much of it is met again.

Hundreds of images in families: each version of one keeps nearly all files of the one
before, and families share what they are built on.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

from duccmake.cvmfs.known import KnownContent, KnownContentWriter
from duccmake.cvmfs.rows import Content

FAMILIES = int(os.environ.get("DUCCMAKE_BENCHMARK_FAMILIES", "30"))
VERSIONS = 10
FILES = 2000
BASES = 5
CHANGED = 0.05


def _file(rng: random.Random) -> str:
    return hashlib.sha256(rng.randbytes(16)).hexdigest()


def _images(rng: random.Random) -> Iterator[list[str]]:
    """The files of each image by their digests."""
    bases = [[_file(rng) for _ in range(FILES // 2)] for _ in range(BASES)]
    for _ in range(FAMILIES):
        files = rng.choice(bases) + [_file(rng) for _ in range(FILES // 2)]
        for _ in range(VERSIONS):
            files = [_file(rng) if rng.random() < CHANGED else file for file in files]
            yield files


def test_images_that_share_files(tmp_path: Path) -> None:
    path = tmp_path / "known.sqlite"
    images = asked = found = 0
    looking = entering = 0.0
    distinct: set[str] = set()
    for files in _images(random.Random(17)):
        begin = time.process_time()
        with KnownContent(path) as index:
            found += sum(bool(index.objects(file)) for file in files)
        looking += time.process_time() - begin
        asked += len(files)
        begin = time.process_time()
        with KnownContentWriter(path) as writer:
            contents = [(file, Content(bytes.fromhex(file[:40]), 1000)) for file in files]
            writer.enter(b"%d" % images, "catalog", contents)
        entering += time.process_time() - begin
        images += 1
        distinct.update(files)
    size = path.stat().st_size
    print(f"\n{images} images, {asked} files, {len(distinct)} of them distinct")
    print(f"  found               {found / asked:8.1%}")
    print(f"  an entry            {size / len(distinct):8.1f} bytes ({size / 1e6:.1f} MB)")
    print(f"  looking one up (CPU){looking / asked * 1e6:8.1f} us")
    print(f"  entering one (CPU)  {entering / asked * 1e6:8.1f} us")
    assert asked - found == len(distinct)
