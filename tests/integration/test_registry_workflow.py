"""Runs of the workflow: images in files, registries that are down, budgets that are short."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import pytest

from support import faulty_registry as faults
from support.faulty_registry import FaultyRegistry, PullLimit
from support.private_registry import CREDENTIALS, PrivateRegistry
from support.runs import Work, fresh_work
from support.servers import add_image, free_port, layer_of, skopeo
from support.trees import snapshot


def layers(text: str) -> tuple[bytes, ...]:
    return tuple(layer_of({f"{name}.txt": text.encode()})[0] for name in ("a", "b"))


@pytest.fixture
def work(tmp_path):
    with fresh_work(tmp_path, FaultyRegistry) as work:
        yield work


@pytest.fixture
def registry(work) -> FaultyRegistry:
    return work.registry


def put(registry: FaultyRegistry, text: str, *targets: str) -> None:
    """Write an image with this text where CI would."""
    add_image(registry.store, "ci/app", "1", layers=layers(text))
    for target in targets:
        path = Path(target.split(":")[1])
        if path.is_file():
            path.unlink()
        skopeo(
            "copy", "--src-tls-verify=false", f"docker://{registry.host}/ci/app:1", target
        )  # fmt: skip


def text_of(work: Work, name: str) -> str:
    return (work.repository.path / name / "a.txt").read_text()


def test_images_in_files_are_published_left_alone_and_followed(work, registry, tmp_path):
    layout, archive = tmp_path / "ci" / "layout", work.path / "app.tar"
    layout.parent.mkdir()
    saved = tmp_path / "ci" / "saved.tar"
    targets = (
        f"oci:{layout}:1.0",
        f"docker-archive:{archive}:team/app:2",
        f"oci-archive:{saved}:team/app:3",
    )
    put(registry, "first", *targets)
    work.wish(f"oci:{layout}:*", "docker-archive:app.tar", *targets[1:])
    names = [
        f"oci{layout}:1.0",
        "docker-archive/app.tar:latest",
        f"docker-archive{archive}/team/app:2",
        f"oci-archive{saved}/team/app:3",
    ]

    preview = work.run("--dry-run", "-p", check=True)
    assert not work.repository.path.exists()
    assert sum(job.startswith("Publish") for job in preview.jobs) == 4

    first = work.run(check=True)
    assert first.counts == (4, 0, 0, 0)
    assert first.requests == ()
    assert [text_of(work, name) for name in names] == ["first"] * 4

    before = snapshot(work.repository.path)
    again = work.run()
    assert again.status == 0 and again.jobs == [] and again.counts == (0, 4, 0, 0)
    assert snapshot(work.repository.path) == before

    put(registry, "second", *targets)
    preview = work.run("--dry-run", "-p")
    assert sum(job.startswith("Publish") for job in preview.jobs) == 4
    assert snapshot(work.repository.path) == before
    moved = work.run()
    assert moved.counts == (4, 0, 0, 0), moved.said
    assert [text_of(work, name) for name in names] == ["second"] * 4

    shutil.rmtree(layout)
    for file in (archive, saved):
        file.write_bytes(file.read_bytes()[:5000])
    damaged = work.run()
    assert damaged.status != 0
    said = {name: outcome for name, (outcome, _) in damaged.outcomes.items()}
    assert set(said.values()) == {"failed"} and set(names[1:]) < set(said)
    assert f"{layout}/index.json does not exist" in damaged.said
    assert "app.tar" in damaged.outcomes[names[1]][1]
    # What was published is never touched because of its source.
    assert [text_of(work, name) for name in names] == ["second"] * 4


def test_a_registry_that_is_down_is_told_once_and_fails_only_what_was_never_published(
    work, registry
):
    names = [f"team/app{number}" for number in range(3)]
    for name in names:
        add_image(registry.store, name, "1", layers=layers(name))
    work.wish(*(f"{{host}}/{name}:1" for name in names))
    work.run(check=True)
    registry.close()
    quiet = work.run(check=True)
    assert quiet.counts == (0, 3, 0, 0)
    lines = [line for line in quiet.stderr.splitlines() if "not reached" in line]
    told = [line for line in lines if line.startswith("duccmake:")]
    assert len(told) == 2, told
    assert "connection refused" in told[0]
    assert told[1].startswith("duccmake: 3 images: registry ")
    assert {remark for _, remark in quiet.outcomes.values()} == {
        f"registry {registry.host} not reached"
    }

    dead = f"localhost:{free_port()}"
    work.wish(
        *(f"{{host}}/{name}:1" for name in names),
        *(f"http://{dead}/team/new{number}:1" for number in range(40)),
    )
    failing = work.run()
    assert failing.status != 0
    assert failing.counts == (0, 3, 40, 0)
    # One job fails for all of them.
    assert len([job for job in failing.jobs if "Cannot follow" in job]) == 1
    told = [line for line in failing.stderr.splitlines() if line.startswith("duccmake: ")]
    assert len([line for line in told if f"registry {dead} not reached" in line]) == 2


def test_a_damaged_layer_is_fetched_whole_twice_in_a_run_however_often_its_job_is_tried(
    work, registry
):
    image = add_image(registry.store, "team/app", "1", layers=layers("text"))
    work.wish("{host}/team/app:1")
    damaged = image.layers[0].digest
    registry.break_next(f"/blobs/{damaged}", faults.wrong_bytes, times=9999)
    for _ in range(2):
        run = work.run("--retries", "3")
        assert run.status != 0
        assert "damaged content" in run.outcomes[work.named("team/app:1")][1]
        assert run.blobs().count(str(damaged)) == 2
        assert run.log.count("Error in rule fetch_blob") > 1, "it was tried again"


def test_updates_wait_for_a_larger_budget_without_failing_and_new_images_come_first(work, registry):
    for name in ("team/old1", "team/old2"):
        add_image(registry.store, name, "1", layers=layers(f"{name} first"))
    work.wish("{host}/team/old1:1", "{host}/team/old2:1")
    work.run(check=True)
    for name in ("team/old1", "team/old2", "team/new"):
        add_image(registry.store, name, "1", layers=layers(f"{name} second"))
    work.wish("{host}/team/old1:1", "{host}/team/old2:1", "{host}/team/new:1")
    limit = PullLimit(1)
    registry.break_next("/manifests/", limit, times=9999)
    run = work.run(check=True)
    assert run.counts == (1, 2, 0, 0)
    assert limit.refused == 0
    waits = f"waits until registry {registry.host} allows more requests"
    for name in ("team/old1", "team/old2"):
        assert run.outcomes[work.named(f"{name}:1")] == ("up to date", waits)
        assert text_of(work, work.named(f"{name}:1")) == f"{name} first"
    assert text_of(work, work.named("team/new:1")) == "team/new second"
    assert f"duccmake: 2 images: {waits}; what is published stays in force" in run.stderr

    limit.left = 100
    assert work.run().counts == (2, 1, 0, 0)


def test_a_login_page_in_the_place_of_a_registry_changes_nothing(work, registry):
    add_image(registry.store, "team/app", "1", layers=layers("first"))
    work.wish("{host}/team/app:1")
    work.run(check=True)
    before = snapshot(work.repository.path)
    registry.break_next("", faults.html, times=9999)
    run = work.run(check=True)
    assert "page" in run.said and "what is published stays in force" in run.said
    assert snapshot(work.repository.path) == before


@pytest.mark.parametrize("tokens", [False, True], ids=["basic", "bearer"])
@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
def test_credentials_serve_all_jobs_and_are_found_nowhere_afterwards(tmp_path, tokens, right):
    password = "open-sesame-4711"
    with fresh_work(tmp_path, users={"me": password}, tokens=tokens) as work:
        registry = work.registry
        add_image(registry.store, "team/app", "1")
        given = password if right else "wrong-sesame-4712"
        work.environment = {"USER_IS": "me", "WORD_IS": given}
        work.wish("{host}/team/app:1")
        known = {"username_env": "USER_IS", "password_env": "WORD_IS"}
        work.configure(registries={registry.host: known})
        run = work.run("--verbose")
    [(outcome, remark)] = run.outcomes.values()
    assert outcome == ("converted" if right else "failed")
    assert right or "credentials" in remark or "no token" in remark
    pair = base64.b64encode(f"me:{given}".encode()).decode()
    sent = {request.authorization.partition(" ")[2] for request in registry.requests}
    assert pair in sent
    for secret in (given, pair, *filter(None, sent)):
        assert secret not in run.said
        for path in work.path.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert secret.encode() not in path.read_bytes(), path


def test_a_private_image_is_refused_while_others_are_published_and_what_is_there_stays(tmp_path):
    with fresh_work(tmp_path, PrivateRegistry) as work:
        assert isinstance(work.registry, PrivateRegistry)
        private, public = work.named("private/app:1"), work.named("open/app:1")
        for name in ("private/app", "open/app"):
            add_image(work.registry.store, name, "1", layers=layers("one"))
        work.environment = {**CREDENTIALS, "HOME": str(tmp_path)}
        settings = {"registries": {work.host: work.registry.settings()}}
        work.wish("{host}/private/app:1", "{host}/open/app:1")
        work.configure(private="refuse", **settings)
        run = work.run()
        assert run.status != 0
        assert run.counts[0] == 1
        assert text_of(work, public) == "one"
        assert not (work.repository.path / private).exists()
        outcome, why = run.outcomes[private]
        assert outcome == "failed" and "nobody without credentials" in why
        assert f"failed     {private}" in work.run("status").stdout
        work.configure(**settings)
        work.run(check=True)
        assert text_of(work, private) == "one"
        # It stays as it is, and no newer one follows it.
        add_image(work.registry.store, "private/app", "1", layers=layers("two"))
        work.configure(private="refuse", **settings)
        assert work.run().outcomes[private][0] == "failed"
        assert text_of(work, private) == "one"
