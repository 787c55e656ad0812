"""Flattening 15 layers with 300,000 entries in all, against ``sort`` of the same lines."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from compare import Program, alternate

PACKAGE = Path(__file__).parents[2] / "workflow"
LAYERS = 15
ENTRIES = 300_000
FLATTEN = f"""
import sys
sys.path.insert(0, {str(PACKAGE)!r})
from pathlib import Path
from duccmake.layer.flatten import LayerTree, flatten
from duccmake.oci.reference import Digest
out, *manifests = sys.argv[1:]
trees = [
    LayerTree(Digest("sha256", f"{{number:064x}}"), Path(manifest).read_bytes())
    for number, manifest in enumerate(manifests)
]
flatten(trees).write(Path(out))
"""


def test_fifteen_layers(tmp_path: Path) -> None:
    manifests = [tmp_path / f"{number}.mtree" for number in range(LAYERS)]
    rng = random.Random(1)
    for manifest in manifests:
        write_manifest(manifest, rng, ENTRIES // LAYERS)
    ours = Program("duccmake", [sys.executable, "-c", FLATTEN, "{out}", *manifests])
    script = 'LC_ALL=C exec sort -s -k1,1 -o "$0/sorted" "$@"'
    sort = Program("sort", ["sh", "-c", script, "{out}", *manifests])
    alternate(f"{LAYERS} layers, {ENTRIES:,} entries", [ours, sort])


def write_manifest(path: Path, rng: random.Random, count: int) -> None:
    """Directories of 40 files; a tenth of them every layer has, some are whited out."""
    lines = ["#mtree v2.0\n", ". type=dir uid=0 gid=0 mode=0755 time=1.000000000\n"]
    written = 1
    seen: set[str] = set()
    while written < count:
        common = rng.random() < 0.1
        top = "usr" if common else f"opt{rng.randrange(20)}"
        place = f"./{top}/{'shared' if common else path.stem}-{rng.randrange(2000)}"
        if place in seen:
            continue
        seen.add(place)
        new = [f"./{top}"] if f"./{top}" not in seen else []
        seen.update(new)
        for directory in [*new, place]:
            lines.append(f"{directory} type=dir uid=0 gid=0 mode=0755 time=1.000000000\n")
            written += 1
        for number in range(40):
            if number == 39 and common:
                rest = "type=char uid=0 gid=0 mode=0000 optional device=native,0,0 tags=whiteout"
            else:
                digest = f"{rng.getrandbits(256):064x}"
                rest = (
                    f"type=file uid=0 gid=0 mode=0644 size={number} "
                    f"time=1700000000.000000000 sha256={digest}"
                )
            lines.append(f"{place}/file-{number}.txt {rest}\n")
            written += 1
    path.write_text("".join(lines))
