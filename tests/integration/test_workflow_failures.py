"""What fails, fails alone, says why, and fails the run unless it is covered by ignoreErrors.

One run has everything at once: each kind of broken image once as such and once
covered by ``ignoreErrors``, beside images that are fine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corpus.streams import END, member, pax
from duccmake.demo.images import Image
from duccmake.oci.manifest import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from duccmake.oci.reference import Platform
from support.images import Layer, LayerBuilder, push
from support.registry import FullRegistry
from support.runs import REPOSITORY, Run, Work, fresh_work
from support.samples import AMD64
from support.servers import free_port

GOOD = ("good/one:1", "good/two:1")


def _layer(text: str) -> Layer:
    return LayerBuilder().dir("etc").file("etc/name", text).layer()


def _image(*layers: Layer, platform: Platform = AMD64) -> Image:
    return Image(layers, {"Cmd": ["/bin/true"]}, platform=platform)


def _push(registry: FullRegistry, name: str, *layers: Layer, **options: Platform) -> Image:
    image = _image(*layers, **options)
    repository, _, tag = name.partition(":")
    push(image, registry.host, repository, tag)
    return image


def _raw(registry: FullRegistry, name: str, content: bytes, media_type: str = OCI_MANIFEST) -> None:
    repository, _, tag = name.partition(":")
    registry.store.put_manifest(repository, media_type, content, tag)


def _with_config(registry: FullRegistry, image: Image, name: str, config: bytes) -> None:
    manifest = json.loads(image.manifest_bytes)
    digest = registry.store.put_blob(config)
    manifest["config"] = {"mediaType": OCI_CONFIG, "digest": str(digest), "size": len(config)}
    _raw(registry, name, json.dumps(manifest).encode())


# --- ways to be broken --------------------------------------------------


def corrupt_bytes(registry: FullRegistry, name: str) -> None:
    layer = _layer(name)
    _push(registry, name, layer)
    registry.store.blob_path(layer.digest).write_bytes(b"x" * len(layer.blob))


def missing_blob(registry: FullRegistry, name: str) -> None:
    layer = _layer(name)
    _push(registry, name, layer)
    registry.store.blob_path(layer.digest).unlink()


def wrong_diff_id(registry: FullRegistry, name: str) -> None:
    layer = _layer(name)
    image = _push(registry, name, layer)
    digits = str(layer.diff_id).encode()
    _with_config(registry, image, name, image.config_bytes.replace(digits, b"sha256:" + b"0" * 64))


def escaping_layer(registry: FullRegistry, name: str) -> None:
    _push(registry, name, LayerBuilder().file("../outside", name).layer())


def dangling_hard_link(registry: FullRegistry, name: str) -> None:
    _push(registry, name, LayerBuilder().file("a", name).hardlink("b", "nowhere").layer())


def hole(registry: FullRegistry, name: str) -> None:
    """A file of 20 GiB in a few hundred bytes: GNU tar's format 0.1 of sparse files."""
    records = {b"GNU.sparse.map": b"0,0", b"GNU.sparse.size": b"%d" % (20 * 1024**3)}
    tar = pax({**records, b"GNU.sparse.name": name.encode()}) + member(b"sparse") + END
    _push(registry, name, Layer(tar))


def artifact(registry: FullRegistry, name: str) -> None:
    manifest = json.loads(_push(registry, name, _layer(name)).manifest_bytes)
    manifest["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json"
    _raw(registry, name, json.dumps(manifest).encode())


def other_platform(registry: FullRegistry, name: str) -> None:
    _push(registry, name, _layer(name), platform=Platform("linux", "s390x"))


def schema_1(registry: FullRegistry, name: str) -> None:
    media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    _raw(registry, name, b'{"schemaVersion": 1, "name": "x", "fsLayers": []}', media_type)


def no_json(registry: FullRegistry, name: str) -> None:
    _raw(registry, name, b"<html>Please sign in</html>")


def members_twice(registry: FullRegistry, name: str) -> None:
    manifest = _push(registry, name, _layer(name)).manifest_bytes
    _raw(registry, name, manifest[:-1] + b',"layers":[]}')


def letter_case(registry: FullRegistry, name: str) -> None:
    """Go's decoder would take the last one for the layers."""
    manifest = _push(registry, name, _layer(name)).manifest_bytes
    _raw(registry, name, manifest[:-1] + b',"Layers":[]}')


def byte_order_mark(registry: FullRegistry, name: str) -> None:
    image = _push(registry, name, _layer(name))
    _with_config(registry, image, name, b"\xef\xbb\xbf" + image.config_bytes)


def schema_in_quotes(registry: FullRegistry, name: str) -> None:
    manifest = json.loads(_push(registry, name, _layer(name)).manifest_bytes)
    _raw(registry, name, json.dumps({**manifest, "schemaVersion": "2"}).encode())


def wrong_size(registry: FullRegistry, name: str) -> None:
    image = _push(registry, name, _layer(name))
    platform = {"os": AMD64.os, "architecture": AMD64.architecture}
    entry = {
        "mediaType": image.media_type,
        "digest": str(image.digest),
        "size": len(image.manifest_bytes) + 1,
        "platform": platform,
    }
    _raw(registry, name, json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(), OCI_INDEX)


def base_layer(registry: FullRegistry, name: str) -> None:
    """As Docker for Windows once had it."""
    image = _push(registry, name, _layer(name))
    config = image.config_bytes.replace(b'"layers"', b'"layers+base"')
    assert config != image.config_bytes
    _with_config(registry, image, name, config)


def blocked_link(registry: FullRegistry, name: str) -> None:
    """Only the repository is in the way: see `work`."""
    _push(registry, name, _layer(name))


def no_manifest(registry: FullRegistry, name: str) -> None:
    """Nothing is there."""


Breakage = Callable[[FullRegistry, str], None]

BREAKAGES: dict[str, tuple[Breakage, str]] = {
    "corrupt": (corrupt_bytes, "were promised"),
    "missing-blob": (missing_blob, "404"),
    "diff-id": (wrong_diff_id, "diff_id"),
    "escaping": (escaping_layer, "outside"),
    "dangling": (dangling_hard_link, "hard link"),
    "hole": (hole, "limits.ratio"),
    "blocked": (blocked_link, "in the way of its link"),
    "artifact": (artifact, "helm"),
    "platform": (other_platform, "s390x"),
    "schema-1": (schema_1, "schema 1"),
    "no-json": (no_json, "JSON"),
    "twice": (members_twice, "several members 'layers'"),
    "letter-case": (letter_case, "member 'Layers'"),
    "bom": (byte_order_mark, "byte order mark"),
    "size": (wrong_size, "bytes where its descriptor has"),
    "schema": (schema_in_quotes, "the number 2"),
    "rootfs-type": (base_layer, "layers+base"),
    "no-manifest": (no_manifest, "404"),
}
"""What is done to the image, and what the reason has to mention."""

JOBS = {
    "corrupt": "fetch_blob",
    "missing-blob": "fetch_blob",
    "diff-id": "flatten_image",
    "escaping": "unpack_layer",
    "hole": "unpack_layer",
    "dangling": "flatten_image",
    "blocked": "publish_image",
}
"""The rule whose job's log says why; all others fail in ``report_problem``."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    with fresh_work(tmp_path_factory.mktemp("failures")) as work:
        registry = work.registry
        assert registry
        for name in GOOD:
            _push(registry, name, _layer("shared by the good"), _layer(name))
        for kind, (breakage, _) in BREAKAGES.items():
            breakage(registry, f"broken/{kind}:1")
            breakage(registry, f"quiet/{kind}:1")
        shared = _layer("shared by a quiet and a loud image")
        _push(registry, "quiet/shared:1", shared)
        _push(registry, "broken/shared:1", shared)
        registry.store.blob_path(shared.digest).write_bytes(b"y" * len(shared.blob))
        _push(registry, "vanishing:kept", _layer("kept"))
        _push(registry, "vanishing:gone", _layer("gone"))
        gone = _image(_layer("gone")).digest
        # As if it were deleted between the listing and the poll.
        (registry.store.root / "repositories/vanishing/manifests" / str(gone)).unlink()
        work.configure(platforms=[str(AMD64)])
        for name in ("broken/blocked:1", "quiet/blocked:1"):
            (work.repository.path / work.named(name)).mkdir(parents=True)
        yield work


@pytest.fixture(scope="module")
def run(work: Work) -> Run:
    """Everything at once."""
    kinds = [*BREAKAGES, "shared"]
    work.wish(
        *(f"{{host}}/{name}" for name in GOOD),
        *(f"{{host}}/broken/{kind}:1" for kind in kinds),
        *(f"{{host}}/quiet/{kind}:1" for kind in kinds),
        "{host}/vanishing:*",
        "quay.io/Upper/Case:1",
        f"http://localhost:{free_port()}/nobody/there:1",
        ignoreErrors=["*/quiet/*"],
    )
    return work.run()


@pytest.fixture(scope="module")
def quiet_run(work: Work, run: Run) -> Run:
    """Only what is fine or may fail."""
    work.wish(
        *(f"{{host}}/{name}" for name in GOOD),
        *(f"{{host}}/quiet/{kind}:1" for kind in BREAKAGES),
        ignoreErrors=["*/quiet/*"],
    )
    return work.run()


def test_one_broken_image_fails_the_run(run: Run):
    assert run.status == 1


def test_images_that_are_fine_are_published_beside_broken_ones(run: Run, work: Work):
    for name in (*GOOD, "vanishing:kept"):
        assert run.outcomes[work.named(name)][0] == "converted"
        assert work.repository.verify(work.named(name)) == []
    assert run.blobs().count(str(_layer("shared by the good").digest)) == 1


def test_nothing_of_a_broken_image_is_published(run: Run, work: Work):
    published = set(work.repository.names())
    assert published == {work.named(name) for name in (*GOOD, "vanishing:kept")}
    assert not (work.path.parent / "outside").exists()
    assert not list(work.path.rglob("outside"))


@pytest.mark.parametrize("kind", BREAKAGES)
def test_the_summary_names_the_reason_of_a_failure(run: Run, work: Work, kind: str):
    outcome, reason = run.outcomes[work.named(f"broken/{kind}:1")]
    assert outcome == "failed"
    assert BREAKAGES[kind][1] in reason


@pytest.mark.parametrize("kind", BREAKAGES)
def test_an_image_that_is_covered_by_ignore_errors_is_skipped_with_the_reason(
    run: Run, work: Work, kind: str
):
    outcome, reason = run.outcomes[work.named(f"quiet/{kind}:1")]
    assert outcome == "skipped"
    assert BREAKAGES[kind][1] in reason


@pytest.mark.parametrize("kind", BREAKAGES)
def test_one_line_of_the_job_s_log_says_why_and_names_the_image(run: Run, work: Work, kind: str):
    name = work.named(f"broken/{kind}:1")
    lines = [
        line
        for log in work.logs(JOBS.get(kind, "report_problem")).values()
        for line in log.splitlines()
        if name in line and " ERROR " in line
    ]
    assert len(lines) == 1
    assert BREAKAGES[kind][1] in lines[0]


def test_no_job_ends_with_a_traceback(run: Run, work: Work):
    for rule in ("fetch_blob", "unpack_layer", "flatten_image", "publish_image", "report_problem"):
        for log in work.logs(rule).values():
            assert "Traceback" not in log


def test_a_layer_that_a_quiet_and_a_loud_image_share_fails_loudly_for_the_loud_one(
    run: Run, work: Work
):
    assert run.outcomes[work.named("broken/shared:1")][0] == "failed"
    assert run.outcomes[work.named("quiet/shared:1")][0] == "skipped"
    for name in ("broken/shared:1", "quiet/shared:1"):
        assert "were promised" in run.outcomes[work.named(name)][1]


def test_a_bad_entry_is_reported_with_its_line_and_the_mend(run: Run, work: Work):
    recipe = (work.path / "config/recipe.yaml").read_text().splitlines()
    line = recipe.index("- quay.io/Upper/Case:1") + 1
    [log] = [log for log in work.logs("report_problem").values() if "quay.io/Upper" in log]
    assert f"config/recipe.yaml:{line}: " in log
    assert "write - 'quay.io/upper/case:1'" in log
    assert log.strip().count("\n") == 0
    assert f"config/recipe.yaml:{line}: " in run.stderr


def test_a_tag_that_vanishes_between_listing_and_use_is_reported(run: Run, work: Work):
    outcome, reason = run.outcomes[work.named("vanishing:gone")]
    assert outcome == "failed"
    assert "404" in reason


def test_an_image_of_which_nothing_is_known_fails_while_its_registry_is_down(run: Run):
    [(outcome, reason)] = [
        outcome for name, outcome in run.outcomes.items() if name.endswith("/nobody/there:1")
    ]
    assert outcome == "failed"
    assert "nobody/there" in reason or "localhost" in reason


def test_the_summary_counts_every_wish(run: Run):
    converted, failed, skipped = len(GOOD) + 1, len(BREAKAGES) + 4, len(BREAKAGES) + 1
    assert run.counts == (converted, 0, failed, skipped)


def test_failures_that_are_covered_do_not_fail_the_run(quiet_run: Run, work: Work):
    assert quiet_run.status == 0, quiet_run.said
    assert quiet_run.counts == (0, len(GOOD), 0, len(BREAKAGES))
    for kind, (_, reason) in BREAKAGES.items():
        assert reason in quiet_run.outcomes[work.named(f"quiet/{kind}:1")][1]


def test_a_covered_failure_is_tried_again_and_converted_once_it_is_mended(
    quiet_run: Run, work: Work
):
    assert work.registry
    _push(work.registry, "quiet/missing-blob:1", _layer("quiet/missing-blob:1"))
    work.wish("{host}/quiet/missing-blob:1", ignoreErrors=["*/quiet/*"])
    run = work.run(check=True)
    assert run.outcomes == {work.named("quiet/missing-blob:1"): ("converted", "")}

    # All that is left cannot even be tried: the run says so although it has no job.
    names = ("quiet/missing-blob:1", "quiet/no-manifest:1")
    work.wish(*(f"{{host}}/{name}" for name in names), ignoreErrors=["*/quiet/*"])
    again = work.run(check=True)
    assert [outcome for outcome, _ in again.outcomes.values()] == ["up to date", "skipped"]


# --- nothing can be done ------------------------------------------------


def test_an_unusable_wish_list_starts_nothing(tmp_path: Path):
    work = Work(tmp_path)
    work.configure(recipe="config/recipe.yaml")
    (tmp_path / "config/recipe.yaml").write_text(
        f"version: 1\nuser: tests\ncvmfs_repo: {REPOSITORY}\ninput: ghcr.io/a/b:1\n"
    )
    run = work.run()
    assert run.status == 1
    assert "config/recipe.yaml:4: 'input' is text; write input: ['ghcr.io/a/b:1']" in run.stderr
    assert "Traceback" not in run.stderr
    assert {path.name for path in (tmp_path / "results").rglob("*.*")} == {
        "index.html",
        "status.json",
    }
    assert not (tmp_path / "cvmfs").exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("products=[layers, flatt]", "flatt"),
        ("repository={rooot: x}", "rooot"),
    ],
)
def test_an_unusable_configuration_starts_nothing(tmp_path: Path, option: str, words: str):
    work = Work(tmp_path)
    work.wish("ghcr.io/a/b:1")
    run = work.run("--config", option)
    assert run.status == 1
    assert words in run.stderr
    assert "Traceback" not in run.stderr
    assert {path.name for path in (tmp_path / "results").rglob("*.*")} == {
        "index.html",
        "status.json",
    }
