"""What is published is verified and mended, as an operator does it."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest

from support.cvmfs_commits import settings_of
from support.cvmfs_repositories import StandIn, both, repository_for
from support.kept_state import document_of
from support.runs import REPOSITORY, Work, fresh_work
from support.samples import AMD64, text_image


def health_of(work: Work) -> dict[str, str]:
    return {image["title"]: image["health"] for image in document_of(work)["images"]}


def verdict_of(work: Work, name: str = REPOSITORY) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((work.path / f"results/{name}/verify.json").read_text())
    return found


def test_damage_is_found_told_of_and_mended_and_what_cannot_be_is_said(tmp_path: Path):
    with fresh_work(tmp_path) as work:
        images = {number: text_image(number) for number in ("1", "2", "3", "4")}
        for number, image in images.items():
            work.push(f"team/app:{number}", image)
        work.wish("{host}/team/app:*")
        work.configure(platforms=[str(AMD64)], products=["layers", "flat", "podman"])
        work.run(check=True)

        clean = work.run("verify", check=True)
        assert "nothing is damaged; 4 images, 4 flat trees and 4 layers verified" in clean.stderr

        name = {number: work.named(f"team/app:{number}") for number in images}
        root = work.repository.path
        content = root / name["1"] / "content"
        times = content.stat().st_mtime_ns
        content.write_text("x")
        os.utime(content, ns=(times, times))
        (root / name["2"]).unlink()
        (root / name["4"] / "content").unlink()
        assert work.registry
        work.registry.store.blob_path(images["4"].layers[0].digest).unlink()
        shutil.rmtree(
            next(path for path in (root / ".layers").glob("*/*") if gone(path, images["4"]))
        )

        preview = work.run("-n", "verify", check=True)
        assert preview.stdout.count("verify  ") == 1
        run = work.run("verify", "--config", "content=true")
        assert run.status == 1
        damaged = [line for line in run.stderr.splitlines() if line.startswith("damaged")]
        assert any(
            f"damaged  {name['1']}  .layers/" in line and "sha256" in line for line in damaged
        )
        assert f"damaged  {name['2']}  the link is missing" in damaged
        assert any("layerfs: is missing" in line for line in damaged)
        assert not any(name["3"] in line for line in damaged)
        assert "'snakemake repair --cores N'" in run.stderr
        assert "Error in rule" not in run.stderr
        assert {one for thing in verdict_of(work)["found"] for one in thing["images"]} == {
            name[number] for number in ("1", "2", "4")
        }
        assert health_of(work) == {
            name[number]: "ok" if number == "3" else "degraded" for number in images
        }

        run = work.run("repair")
        assert run.status == 1
        lines = run.stderr.splitlines()
        assert {f"mended   {name[number]}" for number in ("1", "2")} <= set(lines)
        assert [line for line in lines if line.startswith(f"failed   {name['4']}  fetch layer")]
        assert run.blobs().count(str(images["1"].layers[0].digest)) == 1
        assert str(images["2"].layers[0].digest) not in run.blobs(), "its link alone was gone"
        assert [work.content(f"team/app:{number}") for number in ("1", "2")] == ["1", "2"]
        assert health_of(work)[name["4"]] == "degraded"
        assert {one for thing in verdict_of(work)["found"] for one in thing["images"]} == {
            name["4"]
        }

        work.push("team/app:4", images["4"])
        assert work.run("repair").status == 0
        assert verdict_of(work)["found"] == []
        assert set(health_of(work).values()) == {"ok"}


def gone(path: Path, image: Any) -> bool:
    return path.name == image.layers[0].digest.hex


@pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")
@pytest.mark.parametrize("kind", both())
def test_in_cernvm_fs(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cvmfs = repository_for(kind, tmp_path, monkeypatch)
    with fresh_work(tmp_path) as work:
        for number in ("1", "2"):
            work.push(f"team/app:{number}", text_image(number * 2000))
        work.wish("{host}/team/app:*", cvmfs_repo=cvmfs.name)
        backend = {
            "backend": "cvmfs",
            "mounts": str(cvmfs.mounts),
            "server_config": str(cvmfs.server_config),
        }
        work.configure(platforms=[str(AMD64)], repository=backend)
        work.run(check=True)
        stored = {path for path in objects(cvmfs) if decompressed(path) == b"1" * 2000}
        [path] = stored
        path.write_bytes(path.read_bytes()[::-1])
        run = work.run("verify", "--config", "content=true")
        assert run.status == 1
        assert [work.named("team/app:1")] == sorted(
            {one for thing in verdict_of(work, cvmfs.name)["found"] for one in thing["images"]}
        )
        assert work.run("repair", check=True).status == 0
        assert decompressed(path) == b"1" * 2000
        assert cvmfs.problems() == ""


def objects(cvmfs: StandIn | Any) -> list[Path]:
    _, _, directory = settings_of(cvmfs).upstream.split(",", 2)
    return [path for path in Path(directory, "data").glob("??/*") if path.name[-1].isalnum()]


def decompressed(path: Path) -> bytes:
    try:
        return zlib.decompress(path.read_bytes())
    except zlib.error:
        return b""
