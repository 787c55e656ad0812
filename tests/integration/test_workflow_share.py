"""Publishers that share the wish lists: each image is one's, and no one touches the others'."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from duccmake.demo.images import Image
from support.images import LayerBuilder
from support.runs import Work, fresh_work
from support.samples import AMD64

BASE = LayerBuilder().dir("etc").file("etc/base", "base").layer()
NAMES = [f"team/app{number}" for number in range(6)]


def publishers(work: Work, of: int, **settings: object) -> list[Work]:
    """Working directories of their own, with one wish list and one repository."""
    found = []
    for number in range(1, of + 1):
        own = replace(work, path=work.path.parent / f"publisher{number}")
        repository = {"root": f"{work.path}/cvmfs", "share": {"number": number, "of": of}}
        own.configure(
            recipe=f"{work.path}/config/recipe.yaml",
            platforms=[str(AMD64)],
            repository=repository,
            **settings,
        )
        found.append(own)
    return found


def test_two_publishers_publish_all_images_each_by_one_of_them(tmp_path: Path):
    with fresh_work(tmp_path) as work:
        for name in NAMES:
            own = LayerBuilder().dir("etc").file("etc/own", name).layer()
            work.push(f"{name}:1", Image((BASE, own), {}, platform=AMD64))
        work.wish(*(f"{{host}}/{name}:*" for name in NAMES))
        shares = publishers(work, 2, removal={"policy": "prune", "max_percent": 100})
        with ThreadPoolExecutor() as pool:
            runs = list(pool.map(lambda own: own.run(check=True), shares))
        names = [work.named(f"{name}:1") for name in NAMES]
        converted = [name for run in runs for name in run.outcomes]
        assert sorted(converted) == sorted(names)
        assert all(run.outcomes for run in runs), "the names are all one publisher's"
        assert [work.repository.verify(name) for name in names] == [[]] * len(names)

        # Nobody takes away, polls, or makes anew what is another's.
        work.wish(*(f"{{host}}/{name}:*" for name in NAMES[1:]))
        anew = f"anew={[names[1]]}"
        again = [own.run("--config", anew, check=True) for own in shares]
        assert sorted(work.repository.names()) == sorted(names[1:])
        assert [sum(run.counts[at] for run in again) for at in (0, 1)] == [1, len(NAMES) - 2]
        for name in NAMES[1:]:
            assert sum(bool(run.asked(f"/v2/{name}/")) for run in again) == 1
