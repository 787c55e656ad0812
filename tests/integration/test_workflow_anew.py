"""An image that somebody asks to have converted anew, and what ``scope: all`` does instead."""

from __future__ import annotations

from pathlib import Path

from support.runs import fresh_work
from support.samples import AMD64, text_image


def test_one_image_is_fetched_and_made_again_and_no_other(tmp_path: Path):
    with fresh_work(tmp_path) as work:
        one, two = text_image("one"), text_image("two")
        work.push("team/app:1", one)
        work.push("team/app:2", two)
        work.wish("{host}/team/app:*")
        work.configure(platforms=[str(AMD64)], products=["layers", "flat", "podman"])
        work.run(check=True)
        for name in ("team/app:1", "team/app:2"):
            (work.repository.path / work.named(name) / "content").write_text("damaged")
        assert work.run(check=True).counts == (0, 2, 0, 0)

        image = work.named("team/app:1")
        preview = work.run("-n", "--config", f"anew=[{image}]", check=True)
        assert preview.stdout == f"pending  {image}  to be converted anew, as was asked\n"
        assert work.content("team/app:1") == "damaged"

        everything = work.run("--config", "scope=all", check=True)
        assert len(everything.blobs()) == 2, "all is fetched and unpacked, as a check"
        assert work.content("team/app:1") == "damaged", "what is published stays as it is"

        run = work.run("--config", f"anew=[{image}]", check=True)
        assert run.counts == (1, 1, 0, 0)
        assert run.blobs() == [str(one.layers[0].digest)]
        assert work.repository.verify(image) == []
        assert work.content("team/app:2") == "damaged"

        run = work.run("--config", "anew='*/team/app:2'", check=True)
        assert run.counts == (1, 1, 0, 0)
        assert work.repository.verify(work.named("team/app:2")) == []
        assert work.run(check=True).counts == (0, 2, 0, 0)


def test_the_old_one_is_in_force_where_it_cannot_be_made_again(tmp_path: Path):
    with fresh_work(tmp_path) as work:
        image = text_image("one")
        work.push("team/app:1", image)
        work.wish("{host}/team/app:1")
        work.configure(platforms=[str(AMD64)])
        work.run(check=True)
        assert work.registry
        work.registry.store.blob_path(image.layers[0].digest).unlink()
        run = work.run("--config", f"anew=[{work.named('team/app:1')}]")
        assert run.status != 0
        assert run.outcomes[work.named("team/app:1")][0] == "failed"
        assert work.repository.verify(work.named("team/app:1")) == []
        assert work.run(check=True).counts == (0, 1, 0, 0)


def test_an_image_that_nobody_wishes_for_is_a_mistake(tmp_path: Path):
    with fresh_work(tmp_path) as work:
        work.push("team/app:1", text_image("one"))
        work.wish("{host}/team/app:1")
        work.configure(platforms=[str(AMD64)])
        run = work.run("--config", "anew=[team/ap:1]")
        assert run.status != 0
        assert run.counts == (1, 0, 1, 0)
        assert "team/ap:1: anew: no wish list has an image of this name" in run.stderr
