"""Layers to measure with: made once for all benchmarks of a run, out of nothing.

``DUCCMAKE_BENCHMARK_DATA`` names a directory that keeps them for the next run.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest
from isal import igzip

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Layer:
    """A gzip-compressed layer and its digests, in hex."""

    blob: Path
    digest: str
    diff_id: str


def oci_image(directory: Path, layers: Sequence[Layer], tag: str = "latest") -> str:
    """Add an image of these layers to an OCI layout; returns what umoci calls it."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for layer in layers:
        if not (blobs / layer.digest).exists():
            shutil.copy(layer.blob, blobs / layer.digest)
    config = _put(
        blobs,
        "application/vnd.oci.image.config.v1+json",
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers],
            },
        },
    )
    described = [
        {
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": f"sha256:{layer.digest}",
            "size": layer.blob.stat().st_size,
        }
        for layer in layers
    ]
    manifest = _put(
        blobs,
        "application/vnd.oci.image.manifest.v1+json",
        {"schemaVersion": 2, "config": config, "layers": described},
    )
    manifest["annotations"] = {"org.opencontainers.image.ref.name": tag}
    file = directory / "index.json"
    others = json.loads(file.read_bytes())["manifests"] if file.exists() else []
    file.write_text(json.dumps({"schemaVersion": 2, "manifests": [*others, manifest]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return f"{directory}:{tag}"


def debian_root(directory: Path) -> Layer:
    """A real Debian system of some hundred MB and over 10,000 entries."""
    blob = directory / "root.tar.gz"
    if not blob.exists():
        if shutil.which("mmdebstrap") is None:
            pytest.skip("a real Debian root needs mmdebstrap, which is not installed")
        tar = directory / "root.tar"
        packages = "gcc,git,python3,vim"
        made = subprocess.run(
            ["mmdebstrap", "--variant=apt", f"--include={packages}", "bookworm", tar],
            capture_output=True,
            check=False,
        )
        if made.returncode:
            reason = made.stderr.decode().strip().splitlines()[-1:]
            pytest.skip(f"mmdebstrap could not make a Debian root: {reason}")
        with tar.open("rb") as source, gzip.open(blob, "wb", compresslevel=6) as out:
            shutil.copyfileobj(source, out, MIB)
        tar.unlink()
    return _known(blob)


def small_files(
    directory: Path, count: int = 200_000, *, per_directory: int = 100, top: str = "srv"
) -> Layer:
    """Files of 0 to 1,023 bytes."""
    blob = directory / f"small-{count}-{per_directory}-{top}.tar.gz"
    if not blob.exists():
        _write(blob, lambda out: _small_members(out, count, per_directory, top))
    return _known(blob)


def big_file(directory: Path, size: int = 10 * 1024 * MIB) -> Layer:
    """One file, a fiftieth of it random: gzip members that are made once and repeated."""
    blob = directory / f"big-{size}.tar.gz"
    if not blob.exists():
        piece = random.Random(1).randbytes(MIB) + bytes(49 * MIB)
        member = igzip.compress(piece, compresslevel=1)
        whole, rest = divmod(size, len(piece))
        info = tarfile.TarInfo("big")
        info.size = size
        with blob.open("wb") as out:
            out.write(igzip.compress(info.tobuf(tarfile.GNU_FORMAT)))
            for _ in range(whole):
                out.write(member)
            out.write(igzip.compress(piece[:rest] + bytes(-size % 512 + 1024)))
    return _known(blob)


def data_directory(fallback: Path) -> Path:
    """Where layers are kept."""
    kept = os.environ.get("DUCCMAKE_BENCHMARK_DATA")
    directory = Path(kept) if kept else fallback
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _small_members(out: BinaryIO, count: int, per_directory: int, top: str) -> None:
    rng = random.Random(1)
    noise = rng.randbytes(4096)
    for number in range(count):
        place = f"{top}/{number // per_directory // 100}/{number // per_directory}"
        info = tarfile.TarInfo(f"{place}/file-{number}")
        info.size = rng.randrange(1024)
        info.mtime = 1_700_000_000 + number // 1000
        at = rng.randrange(3000)
        content = noise[at : at + info.size]
        out.write(info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512))
    out.write(bytes(1024))


def _write(blob: Path, write: Callable[[BinaryIO], None]) -> None:
    partial = blob.with_suffix(".partial")
    with igzip.open(partial, "wb", compresslevel=1) as out:
        write(out)
    partial.rename(blob)


def _known(blob: Path) -> Layer:
    """The layer's digests, kept beside it."""
    note = blob.with_suffix(".digests")
    if not note.exists():
        diff = hashlib.sha256()
        for piece in _inflated(blob):
            diff.update(piece)
        with blob.open("rb") as raw:
            digest = hashlib.file_digest(raw, "sha256").hexdigest()
        note.write_text(f"{digest} {diff.hexdigest()}\n")
    digest, diff_id = note.read_text().split()
    return Layer(blob, digest, diff_id)


def _inflated(blob: Path) -> Iterator[bytes]:
    with igzip.open(blob, "rb") as archive:
        while piece := archive.read(MIB):
            yield piece


def _put(blobs: Path, media_type: str, content: object) -> dict[str, object]:
    raw = json.dumps(content).encode()
    digest = hashlib.sha256(raw).hexdigest()
    (blobs / digest).write_bytes(raw)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(raw)}
