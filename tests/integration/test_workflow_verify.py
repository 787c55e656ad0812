"""What is published is verified and mended, as an operator does it."""

from __future__ import annotations

import json
from pathlib import Path

from support.kept_state import document_of
from support.runs import REPOSITORY, fresh_work
from support.samples import AMD64, text_image


def test_damage_is_found_told_of_and_mended(tmp_path: Path):
    with fresh_work(tmp_path) as work:
        for number in ("1", "2"):
            work.push(f"team/app:{number}", text_image(number))
        work.wish("{host}/team/app:*")
        work.configure(platforms=[str(AMD64)], products=["layers", "flat", "podman"])
        work.run(check=True)
        clean = work.run("verify", check=True)
        print(clean.said)
        assert "nothing is damaged; 2 images, 2 flat trees and" in clean.stderr
        (work.repository.path / work.named("team/app:1") / "content").write_text("damaged")
        run = work.run("verify", "--config", "content=true")
        print(run.said, run.log)
        assert run.status == 1
        verdict = json.loads((work.path / "results" / REPOSITORY / "verify.json").read_text())
        print(json.dumps(verdict, indent=1))
        print(document_of(work)["images"])
        run = work.run("repair", check=True)
        print(run.said, run.log)
        print(document_of(work)["images"])
        assert 0
