"""Images in OCI layouts and archives, as skopeo writes them and as they are damaged."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from duccmake.errors import (
    DigestMismatch,
    InvalidReference,
    ManifestError,
    NotFound,
    RegistryError,
    UnsupportedImage,
)
from duccmake.oci.manifest import Manifest
from duccmake.oci.reference import Digest, Platform, Reference
from duccmake.registry.client import Client
from duccmake.registry.images import select_image
from duccmake.registry.places import Places
from duccmake.repository.layout import check_name
from support.registry import FullRegistry
from support.samples import AMD64
from support.servers import (
    SampleImage,
    add_image,
    add_index,
    layer_of,
    need,
    sha256,
    skopeo,
    without_proxies,
)
from support.wishes import load

LAYERS = tuple(layer_of({name: name.encode() * 9})[0] for name in ("one", "two"))
PLAIN = tuple(gzip.decompress(layer) for layer in LAYERS)


class Everywhere:
    """All places as one: each question goes to the one of the reference that it is about."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def __getattr__(self, question):
        def ask(reference, *rest):
            return getattr(self._places.of(reference), question)(reference, *rest)

        return ask


@pytest.fixture
def places():
    with Client({}) as client:
        yield Everywhere(Places(client))


@pytest.fixture
def registry(tmp_path):
    with FullRegistry(tmp_path / "registry") as running:
        yield running


def copy(registry: FullRegistry, name: str, *targets: str) -> None:
    for target in targets:
        skopeo(
            "copy", "--all", "--src-tls-verify=false", f"docker://{registry.host}/{name}", target
        )


def check_image(places: Everywhere, reference: Reference, layers, tmp_path: Path) -> Manifest:
    """The reference leads to an image of these layers, byte for byte; returns its manifest."""
    top, manifest, config = select_image(places, reference, AMD64)
    assert top == places.poll(reference)
    assert sha256(manifest.raw) == manifest.digest
    out = Path(tempfile.mkdtemp(dir=tmp_path))
    for layer, content in zip(manifest.layers, layers, strict=True):
        path = out / layer.digest.hex
        assert places.fetch_blob(reference, layer, path) == len(content)
        assert path.read_bytes() == content
        assert places.fetch_blob(reference, layer, path) == 0
    assert [sha256(content) for content in PLAIN] == list(config.diff_ids)
    return manifest


# --- names --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("oci:/srv/ci/layout:1.0", "oci/srv/ci/layout:1.0"),
        ("oci:build/app", "oci/build/app:latest"),
        ("oci:./build//app/:1", "oci/build/app:1"),
        ("oci:/a@sha256:" + "0" * 64, "oci/a@sha256:" + "0" * 64),
        ("docker-archive:/srv/app.tar", "docker-archive/srv/app.tar:latest"),
        ("docker-archive:app.tar:app:2", "docker-archive/app.tar/app:2"),
        (
            "docker-archive:/a.tar:localhost:5000/team/app:2",
            "docker-archive/a.tar/localhost:5000/team/app:2",
        ),
        ("oci-archive:/srv/app.tar", "oci-archive/srv/app.tar:latest"),
        ("oci-archive:/srv/app.tar:1.0", "oci-archive/srv/app.tar:1.0"),
        ("oci-archive:app.tar:app:2", "oci-archive/app.tar/app:2"),
        (
            "oci-archive:a.tar:docker.io/library/app",
            "oci-archive/a.tar/docker.io/library/app:latest",
        ),
        ("oci-archive:/a.tar@sha256:" + "0" * 64, "oci-archive/a.tar@sha256:" + "0" * 64),
        ("oci:../.cache/a%b ü:1", "oci/%2E%2E/%2Ecache/a%25b%20%C3%BC:1"),
    ],
)
def test_a_local_image_has_a_safe_name_that_its_path_gives(text, name):
    reference = Reference.parse(text)
    assert check_name(reference.name) == name
    assert reference.is_local
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    ["oci:", "oci:/", "oci::1", "oci:/a:", "oci:/a:b:c", "oci:/a\nb:1", "docker-archive:a.tar:-:1",
     "docker-archive:a.tar@sha256:" + "0" * 64, "oci:/a:1@sha256:" + "0" * 64,
     "docker-archive:a.tar:../../x:1", "oci:/" + "x" * 300, "oci-archive:/a:",
     "oci-archive:/a:-:1", "oci-archive:/a.tar:a:1@sha256:" + "0" * 64],
)  # fmt: skip
def test_what_names_no_local_image_is_refused(text):
    with pytest.raises(InvalidReference):
        Reference.parse(text)


def test_two_paths_that_would_be_published_as_one_are_refused_in_a_wish_list(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "version: 1\nuser: me\ncvmfs_repo: a.example.org\ninput: ['oci:a/b:1', 'oci:/a/b:1']\n"
    )
    recipe = load(path)
    assert [str(wish.reference) for wish in recipe.wishes] == ["oci:a/b:1"]
    (bad,) = recipe.bad_entries
    assert "would be published as 'oci/a/b:1'" in bad.reason


# --- OCI layouts --------------------------------------------------------


def test_an_image_that_skopeo_wrote_into_a_layout_is_found_by_its_tag(registry, places, tmp_path):
    image = add_image(registry.store, "team/app", "1", layers=LAYERS)
    add_image(registry.store, "team/app", "2")
    layout = tmp_path / "layout"
    copy(registry, "team/app:1", f"oci:{layout}:1")
    copy(registry, "team/app:2", f"oci:{layout}:2")
    reference = Reference.parse(f"oci:{layout}:1")
    assert check_image(places, reference, LAYERS, tmp_path).digest == image.manifest.digest
    by_digest = Reference.parse(f"oci:{layout}@{image.manifest.digest}")
    check_image(places, by_digest, LAYERS, tmp_path)
    assert places.tags(Reference.parse(f"oci:{layout}:*")) == ["1", "2"]
    for wrong in (f"oci:{layout}", f"oci:{layout}:3"):
        with pytest.raises(NotFound, match="its names are: 1, 2"):
            places.poll(Reference.parse(wrong))


def test_relative_paths_count_from_the_working_directory(registry, places, tmp_path, monkeypatch):
    add_image(registry.store, "team/app", "1", layers=LAYERS)
    (tmp_path / "here").mkdir()
    copy(registry, "team/app:1", f"oci:{tmp_path}/here/layout", f"docker-archive:{tmp_path}/a.tar")
    monkeypatch.chdir(tmp_path / "here")
    check_image(places, Reference.parse("oci:layout"), LAYERS, tmp_path)
    check_image(places, Reference.parse("docker-archive:../a.tar"), PLAIN, tmp_path)


def test_the_platform_is_taken_from_an_index_in_a_layout(registry, places, tmp_path):
    images = [
        add_image(registry.store, "team/app", platform=platform, layers=LAYERS)
        for platform in (Platform("linux", "s390x"), AMD64)
    ]
    add_index(registry.store, "team/app", "all", [image.manifest for image in images])
    layout = tmp_path / "layout"
    copy(registry, "team/app:all", f"oci:{layout}:all")
    reference = Reference.parse(f"oci:{layout}:all")
    assert check_image(places, reference, LAYERS, tmp_path).digest == images[1].manifest.digest
    with pytest.raises(UnsupportedImage, match="linux/s390x"):
        select_image(places, reference, Platform("linux", "riscv64"))


def test_entries_without_names_are_one_image_for_several_platforms(registry, places, tmp_path):
    images = [
        add_image(registry.store, "team/app", platform=platform, layers=LAYERS)
        for platform in (Platform("linux", "s390x"), AMD64)
    ]
    layout = nameless_layout(registry, images, tmp_path / "layout")
    reference = Reference.parse(f"oci:{layout}")
    assert check_image(places, reference, LAYERS, tmp_path).digest == images[1].manifest.digest
    before = places.poll(reference)
    nameless_layout(registry, images[1:], layout)
    assert places.poll(reference) != before


def nameless_layout(registry: FullRegistry, images: list[SampleImage], path: Path) -> Path:
    """A layout whose entries have platforms and no names."""
    entries = [
        {
            "mediaType": image.manifest.media_type,
            "digest": str(image.manifest.digest),
            "size": image.manifest.size,
            "platform": {"os": "linux", "architecture": image.manifest.platform.architecture},
        }
        for image in images
    ]
    path.mkdir(exist_ok=True)
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    shutil.copytree(registry.store.root / "blobs", path / "blobs", dirs_exist_ok=True)
    return path


@pytest.fixture
def layout(registry, tmp_path):
    add_image(registry.store, "team/app", "1", layers=LAYERS)
    copy(registry, "team/app:1", f"oci:{tmp_path}/layout:1")
    return tmp_path / "layout"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"manifests": [1]}', "<html>", "[" * 10**5])
def test_a_damaged_index_is_an_error_that_says_so(layout, places, content):
    (layout / "index.json").write_text(content)
    with pytest.raises(ManifestError, match="no index of images"):
        places.poll(Reference.parse(f"oci:{layout}:1"))


def test_an_index_on_which_readers_differ_is_refused(layout, places):
    path = layout / "index.json"
    text = path.read_text()
    for other in (
        text[:-1] + ',"manifests":[]}',
        text.replace('"manifests"', '"Manifests"'),
        text.replace('"schemaVersion":2', '"schemaVersion":"2"'),
        "\ufeff" + text,
    ):
        path.write_text(other)
        with pytest.raises(ManifestError, match=r"no index of images: it (has|begins)"):
            places.poll(Reference.parse(f"oci:{layout}:1"))


@pytest.mark.parametrize(
    "annotations",
    [7, {"org.opencontainers.image.ref.name": 7}, {"org.opencontainers.image.ref.name": "2"}],
)
def test_what_one_entry_of_an_index_says_does_not_keep_another_from_being_found(
    layout, places, annotations
):
    path = layout / "index.json"
    index = json.loads(path.read_text())
    [entry] = index["manifests"]
    for name in ("annotations", "Annotations"):
        other = {**entry, "Digest": "x", "annotations": None, name: annotations}
        path.write_text(json.dumps({**index, "manifests": [other, entry]}))
        assert str(places.poll(Reference.parse(f"oci:{layout}:1"))) == entry["digest"]


def test_an_entry_with_another_size_than_its_manifest_is_refused_alone(layout, places):
    path = layout / "index.json"
    index = json.loads(path.read_text())
    [entry] = index["manifests"]
    tag = {"org.opencontainers.image.ref.name": "2"}
    wrong = {**entry, "size": entry["size"] + 1, "annotations": tag}
    path.write_text(json.dumps({**index, "manifests": [wrong, entry]}))
    for digest in (None, Digest.parse(entry["digest"])):
        with pytest.raises(DigestMismatch, match=f"{entry['size']} bytes where .* {wrong['size']}"):
            select_image(places, Reference.parse(f"oci:{layout}:2"), AMD64, digest=digest)
        assert select_image(places, Reference.parse(f"oci:{layout}:1"), AMD64, digest=digest)


def test_what_is_missing_is_named(layout, places, tmp_path):
    reference = Reference.parse(f"oci:{layout}:1")
    manifest = select_image(places, reference, AMD64)[1]
    (layout / "blobs" / "sha256" / manifest.layers[0].digest.hex).unlink()
    with pytest.raises(NotFound, match=manifest.layers[0].digest.hex):
        places.fetch_blob(reference, manifest.layers[0], tmp_path / "blob")
    shutil.rmtree(layout)
    with pytest.raises(NotFound, match=str(layout)):
        places.poll(reference)


def test_blobs_with_other_bytes_are_refused(layout, places, tmp_path):
    reference = Reference.parse(f"oci:{layout}:1")
    manifest = select_image(places, reference, AMD64)[1]
    for descriptor in (manifest.layers[0], manifest.config):
        path = layout / "blobs" / "sha256" / descriptor.digest.hex
        path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(DigestMismatch):
        places.fetch_blob(reference, manifest.layers[0], tmp_path / "blob")
    assert not (tmp_path / "blob").exists()
    with pytest.raises(DigestMismatch):
        places.blob_bytes(reference, manifest.config)


def test_a_copy_goes_on_from_what_an_earlier_one_left(layout, places, tmp_path):
    reference = Reference.parse(f"oci:{layout}:1")
    layer = select_image(places, reference, AMD64)[1].layers[0]
    (tmp_path / "blob.part").write_bytes(LAYERS[0][:50])
    assert places.fetch_blob(reference, layer, tmp_path / "blob") == len(LAYERS[0]) - 50
    (tmp_path / "other.part").write_bytes(b"x" * 50)
    places.fetch_blob(reference, layer, tmp_path / "other")
    assert (tmp_path / "blob").read_bytes() == (tmp_path / "other").read_bytes() == LAYERS[0]


def test_a_pipe_in_the_place_of_a_blob_is_refused_and_not_waited_for(layout, places, tmp_path):
    reference = Reference.parse(f"oci:{layout}:1")
    layer = select_image(places, reference, AMD64)[1].layers[0]
    path = layout / "blobs" / "sha256" / layer.digest.hex
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RegistryError, match="not a plain file"):
        places.fetch_blob(reference, layer, tmp_path / "blob")


def test_a_digest_of_an_index_cannot_lead_out_of_its_layout(layout, places):
    members = json.loads((layout / "index.json").read_text())
    members["manifests"][0]["digest"] = "sha256:../../../../etc/passwd"
    (layout / "index.json").write_text(json.dumps(members))
    with pytest.raises(ManifestError, match="is not a digest"):
        places.poll(Reference.parse(f"oci:{layout}:1"))


# --- OCI layouts in archives ---------------------------------------------


@pytest.mark.parametrize("compress", [lambda content: content, gzip.compress])
def test_an_image_that_skopeo_wrote_into_an_oci_archive_is_found(
    registry, places, tmp_path, compress
):
    image = add_image(registry.store, "team/app", "1", layers=LAYERS)
    path = tmp_path / "a.tar"
    copy(registry, "team/app:1", f"oci-archive:{path}:1")
    path.write_bytes(compress(path.read_bytes()))
    for name in ("", ":1", f"@{image.manifest.digest}"):
        reference = Reference.parse(f"oci-archive:{path}{name}")
        assert check_image(places, reference, LAYERS, tmp_path).digest == image.manifest.digest
    assert places.tags(Reference.parse(f"oci-archive:{path}:*")) == ["1"]
    with pytest.raises(NotFound, match=r"its names are: 1; .*oci-archive:path:tag") as caught:
        places.poll(Reference.parse(f"oci-archive:{path}:2"))
    assert caught.value.code == "MANIFEST_UNKNOWN"


def layout_archive(registry: FullRegistry, path: Path, names: Mapping[str, SampleImage]) -> Path:
    """An archive as docker save (25 and later) and podman save write it, of named images.

    A name with a slash is podman's, which keeps the whole in one place.
    """
    entries = []
    for name, image in names.items():
        repository, _, tag = name.rpartition(":")
        annotations = {"org.opencontainers.image.ref.name": name}
        if repository.startswith("docker.io/"):
            annotations = {
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": tag,
            }
        entry = {"mediaType": image.manifest.media_type, "digest": str(image.manifest.digest)}
        entries.append({**entry, "size": image.manifest.size, "annotations": annotations})
    with tarfile.open(path, "w") as tar:
        raw = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
        for name, content in (("index.json", raw), ("oci-layout", b"{}")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        tar.add(registry.store.root / "blobs", "blobs")
    return path


def test_images_of_an_oci_archive_are_told_apart_by_tags_and_names(registry, places, tmp_path):
    one = add_image(registry.store, "team/one", layers=LAYERS)
    two = add_image(registry.store, "team/two", layers=LAYERS[::-1])
    path = layout_archive(
        registry,
        tmp_path / "a.tar",
        {
            "docker.io/library/app:1": one,
            "docker.io/team/app:2": two,
            "localhost/app:2": one,
            "localhost/app:3": one,
            "3": one,
            "docker.io/library/other:latest": one,
        },
    )

    def found(name: str) -> Digest:
        return places.poll(Reference.parse(f"oci-archive:{path}:{name}"))

    for name in ("1", "app:1", "library/app:1", "docker.io/app:1", "localhost/app:2", "3"):
        assert found(name) == one.manifest.digest
    assert found("other") == one.manifest.digest, "a name without tag"
    assert found("docker.io/team/app:2") == found("team/app:2") == two.manifest.digest
    for name in ("2", "app:2", "localhost/app", "other:1"):
        with pytest.raises(NotFound, match="localhost/app:3"):
            found(name)
    assert places.tags(Reference.parse(f"oci-archive:{path}:localhost/app:*")) == ["2", "3"]
    assert places.tags(Reference.parse(f"oci-archive:{path}:*")) == ["1", "2", "3", "latest"]


def test_one_image_under_several_names_needs_none(registry, places, tmp_path):
    image = add_image(registry.store, "team/app", layers=LAYERS)
    names = dict.fromkeys(["localhost/app:1", "localhost/app:stable"], image)
    path = layout_archive(registry, tmp_path / "a.tar", names)
    check_image(places, Reference.parse(f"oci-archive:{path}"), LAYERS, tmp_path)


def test_what_podman_saves_is_found_in_either_form(registry, places, tmp_path, request):
    add_image(registry.store, "team/app", "1", layers=LAYERS)
    # podman takes no long paths.
    own = Path(tempfile.mkdtemp())
    request.addfinalizer(lambda: shutil.rmtree(own))
    places_of = [f"--root={own}/root", f"--runroot={own}/run", f"--tmpdir={own}/tmp"]
    podman = [need("podman"), *places_of, "--storage-driver=vfs", "--events-backend=none"]

    def run(*arguments: str) -> None:
        subprocess.run(
            [*podman, *arguments], check=True, capture_output=True, env=without_proxies()
        )

    run("pull", "--tls-verify=false", f"{registry.host}/team/app:1")
    run("tag", f"{registry.host}/team/app:1", "localhost/app:2")
    for form in ("oci-archive", "docker-archive"):
        run("save", "--format", form, "--output", f"{tmp_path}/{form}.tar", "localhost/app:2")
        for name in ("", ":localhost/app:2"):
            reference = Reference.parse(f"{form}:{tmp_path}/{form}.tar{name}")
            _, manifest, config = select_image(places, reference, AMD64)
            assert list(config.diff_ids) == [sha256(content) for content in PLAIN]
            for layer in manifest.layers:
                places.fetch_blob(reference, layer, tmp_path / form / name / layer.digest.hex)
    check_image(
        places, Reference.parse(f"docker-archive:{tmp_path}/docker-archive.tar"), PLAIN, tmp_path
    )


def test_an_archive_of_the_other_kind_says_how_to_name_it(registry, places, tmp_path):
    add_image(registry.store, "team/app", "1", layers=LAYERS)
    copy(
        registry, "team/app:1", f"oci-archive:{tmp_path}/o.tar", f"docker-archive:{tmp_path}/d.tar"
    )
    with pytest.raises(ManifestError, match="has to be named as docker-archive:"):
        places.poll(Reference.parse(f"oci-archive:{tmp_path}/d.tar"))
    with pytest.raises(ManifestError, match="has to be named as oci-archive:"):
        places.poll(Reference.parse(f"docker-archive:{tmp_path}/o.tar"))


@pytest.mark.parametrize("keep", [0, 100, 700, 3000])
def test_a_truncated_oci_archive_is_an_error(registry, places, tmp_path, keep):
    image = add_image(registry.store, "team/app", layers=LAYERS)
    path = layout_archive(registry, tmp_path / "a.tar", {"1": image})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ManifestError, match=r"a\.tar"):
        select_image(places, Reference.parse(f"oci-archive:{path}"), AMD64)


# --- archives of Docker's -------------------------------------------------


def test_the_only_image_of_an_archive_needs_no_name(registry, places, tmp_path):
    add_image(registry.store, "team/app", "1", layers=LAYERS)
    copy(registry, "team/app:1", f"docker-archive:{tmp_path}/one.tar")
    check_image(places, Reference.parse(f"docker-archive:{tmp_path}/one.tar"), PLAIN, tmp_path)


def test_the_same_image_archived_twice_has_one_digest(registry, places, tmp_path):
    add_image(registry.store, "team/app", "1", layers=LAYERS)
    copy(registry, "team/app:1", f"docker-archive:{tmp_path}/a.tar:a:1")
    copy(registry, "team/app:1", f"docker-archive:{tmp_path}/b.tar:b:2")
    polls = [places.poll(Reference.parse(f"docker-archive:{tmp_path}/{n}.tar")) for n in "ab"]
    assert polls[0] == polls[1]
    add_image(registry.store, "team/app", "1", layers=LAYERS[::-1])
    (tmp_path / "a.tar").unlink()
    copy(registry, "team/app:1", f"docker-archive:{tmp_path}/a.tar:a:1")
    assert places.poll(Reference.parse(f"docker-archive:{tmp_path}/a.tar")) != polls[0]


def archive(path: Path, images: Mapping[str, tuple[bytes, ...]], *, links: bool = False) -> Path:
    """An archive as ``docker save`` writes it, of images by their names."""
    entries = []
    with tarfile.open(path, "w") as tar:

        def add(name: str, content: bytes) -> str:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
            return name

        for number, (name, layers) in enumerate(images.items()):
            diff_ids = [sha256(_plain(layer)) for layer in layers]
            config = {
                "os": "linux",
                "architecture": "amd64",
                "rootfs": {"type": "layers", "diff_ids": [str(digest) for digest in diff_ids]},
            }
            names = [add(f"{number}-{n}/layer.tar", layer) for n, layer in enumerate(layers)]
            if links:
                for at, target in enumerate(names):
                    member = tarfile.TarInfo(f"{number}-{at}-link/layer.tar")
                    member.type, member.linkname = tarfile.SYMTYPE, f"../{target}"
                    tar.addfile(member)
                    names[at] = member.name
            entries.append(
                {
                    "Config": add(f"{number}.json", json.dumps(config).encode()),
                    "RepoTags": [name] if name else None,
                    "Layers": names,
                }
            )
        add("manifest.json", json.dumps(entries).encode())
    return path


def _plain(layer: bytes) -> bytes:
    return gzip.decompress(layer) if layer.startswith(b"\x1f\x8b") else layer


@pytest.mark.parametrize("links", [False, True])
def test_images_of_an_archive_are_told_apart_by_names_as_docker_completes_them(
    places, tmp_path, links
):
    other = layer_of({"other": b"3"})[0]
    images = {
        "docker.io/library/app:1": PLAIN,
        "localhost:5000/team/app:1": (_plain(other),),
        "app:2": (_plain(other), *PLAIN),
    }
    path = archive(tmp_path / "a.tar", images, links=links)
    for name in ("app:1", "docker.io/library/app:1", "docker.io/app:1", "library/app:1"):
        check_image(places, Reference.parse(f"docker-archive:{path}:{name}"), PLAIN, tmp_path)
    ported = Reference.parse(f"docker-archive:{path}:localhost:5000/team/app:1")
    assert len(select_image(places, ported, AMD64)[1].layers) == 1
    assert places.tags(Reference.parse(f"docker-archive:{path}:app:*")) == ["1", "2"]
    for missing in ("", ":app:3", ":other:1"):
        with pytest.raises(NotFound, match=r"docker\.io/library/app:1"):
            places.poll(Reference.parse(f"docker-archive:{path}{missing}"))


@pytest.mark.parametrize("compress", [lambda content: content, gzip.compress])
def test_layers_and_archives_may_be_compressed(places, tmp_path, compress):
    path = archive(tmp_path / "a.tar", {"": (PLAIN[0], LAYERS[1])})
    path.write_bytes(compress(path.read_bytes()))
    manifest = check_image(
        places, Reference.parse(f"docker-archive:{path}"), (PLAIN[0], LAYERS[1]), tmp_path
    )
    assert manifest.layers[1].media_type.endswith("+gzip")


def test_a_layer_that_is_not_its_diff_id_is_refused(places, tmp_path):
    path = archive(tmp_path / "a.tar", {"": PLAIN})
    path.write_bytes(path.read_bytes().replace(b"one" * 9, b"eno" * 9))
    reference = Reference.parse(f"docker-archive:{path}")
    manifest = select_image(places, reference, AMD64)[1]
    with pytest.raises(DigestMismatch):
        places.fetch_blob(reference, manifest.layers[0], tmp_path / "blob")


@pytest.mark.parametrize("keep", [0, 100, 700, 3000])
def test_a_truncated_archive_is_an_error(places, tmp_path, keep):
    path = archive(tmp_path / "a.tar", {"": PLAIN})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ManifestError, match=r"a\.tar"):
        places.poll(Reference.parse(f"docker-archive:{path}"))


def test_a_truncated_compressed_archive_is_an_error(places, tmp_path):
    path = archive(tmp_path / "a.tar", {"": PLAIN})
    compressed = gzip.compress(path.read_bytes())
    path.write_bytes(compressed[: len(compressed) // 2])
    with pytest.raises(ManifestError, match=r"a\.tar"):
        places.poll(Reference.parse(f"docker-archive:{path}"))


def test_links_that_lead_in_a_circle_or_out_of_the_archive_lead_nowhere(places, tmp_path):
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [str(sha256(b""))]}}
    for target in ("layer.tar", "../../../etc/passwd", "/etc/passwd"):
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w") as tar:
            link = tarfile.TarInfo("layer.tar")
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
            entries = [{"Config": "c.json", "Layers": ["layer.tar"]}]
            for name, content in (("c.json", config), ("manifest.json", entries)):
                member = tarfile.TarInfo(name)
                raw = json.dumps(content).encode()
                member.size = len(raw)
                tar.addfile(member, io.BytesIO(raw))
        with pytest.raises(ManifestError, match=r"no file 'layer\.tar'"):
            places.poll(Reference.parse(f"docker-archive:{path}"))


@pytest.mark.parametrize("name", ["Config", "RepoTags", "Layers"])
def test_a_list_of_images_on_which_readers_differ_is_refused(places, tmp_path, name):
    entries = '[{"Config":"c.json","RepoTags":[],"Layers":[]}]'
    member = f'"{name}":'
    for text in (
        entries.replace(member, member.lower()),
        entries.replace(member, f"{member}null,{member}"),
    ):
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w") as tar:
            header = tarfile.TarInfo("manifest.json")
            header.size = len(text)
            tar.addfile(header, io.BytesIO(text.encode()))
        with pytest.raises(ManifestError, match=name):
            places.poll(Reference.parse(f"docker-archive:{path}"))


def test_an_archive_that_changes_between_poll_and_pull_is_noticed(places, tmp_path):
    path = archive(tmp_path / "a.tar", {"": PLAIN})
    reference = Reference.parse(f"docker-archive:{path}")
    before = places.poll(reference)
    archive(path, {"": PLAIN[::-1]})
    with pytest.raises(RegistryError, match="was changed while it was read"):
        select_image(places, reference, AMD64, digest=before)


def test_the_manifest_that_is_put_together_does_not_change_with_versions(places, tmp_path):
    """A new digest would have every archived image converted again."""
    config = b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}'
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        entries = b'[{"Config":"c.json","RepoTags":null,"Layers":null}]'
        for name, raw in (("c.json", config), ("manifest.json", entries)):
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    manifest = places.manifest(Reference.parse(f"docker-archive:{path}"))
    assert manifest.raw == (
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
        b'"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:'
        + hashlib.sha256(config).hexdigest().encode()
        + b'","size":%d},"layers":[]}' % len(config)
    )
