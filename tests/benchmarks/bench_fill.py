"""A first fill with tiny images: what a job costs beside the work that it does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import yaml
from compare import Program, alternate
from rows import Row, leave

from support import quick_registry

CHECKOUT = Path(__file__).parents[2]
IMAGES = int(os.environ.get("DUCCMAKE_BENCHMARK_IMAGES", "1000"))
DELAY_SECONDS = 0.02

BARE = """
rule all:
    input:
        expand("published/{image}", image=range(IMAGES)),

rule fetch:
    output: temp(touch("blobs/{layer}"))
    shell: "true"

rule unpack:
    input: "blobs/{layer}"
    output: temp(touch("layers/{layer}"))
    shell: "true"

def layers(wildcards):
    image = int(wildcards.image)
    return ["layers/base", f"layers/of{image // 100}", f"layers/app{image}"]

rule flatten:
    input: layers
    output: temp(touch("flat/{image}"))
    shell: "true"

rule publish:
    input: layers, "flat/{image}"
    output: touch("published/{image}")
    shell: "true"
"""
"""The same graph, of jobs that do nothing."""


def test_first_fill_against_snakemake_with_jobs_that_do_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "localhost")
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "2", "--quiet", "all"]
    bare = tmp_path / "Snakefile"
    bare.write_text(f"IMAGES = {IMAGES}\n" + BARE)
    with quick_registry.running(DELAY_SECONDS) as host:
        wishes = {
            "version": 1,
            "user": "nobody",
            "cvmfs_repo": "images.example.org",
            "input": [f"http://{host}/tiny/app{number}:1" for number in range(IMAGES)],
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(wishes))
        config = {
            "recipe": str(tmp_path / "recipe.yaml"),
            "repository": {"root": "cvmfs"},
            "platforms": ["linux/amd64"],
            "thin": {"push": "never"},
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        own = ["--snakefile", CHECKOUT / "Snakefile", "--configfile", tmp_path / "config.yaml"]
        both = [
            Program("duccmake", [*snakemake, *own, "--directory", "{out}"]),
            Program("bare jobs", [*snakemake, "--snakefile", bare, "--directory", "{out}"]),
        ]
        runs = alternate(f"A first fill with {IMAGES} images", both, rounds=1, warm_up=False)
    # Two jobs fetch and unpack each layer, two flatten and publish each image.
    jobs = 4 * IMAGES + 2 * (1 + -(-IMAGES // 100))
    ours, bare = (jobs / taken[0].wall for taken in runs.values())
    leave(Row("Jobs of that fill", "a second", ours, "bare jobs", bare, ours / bare))
    print(f"  {IMAGES / runs['duccmake'][0].wall:.1f} images a second")
