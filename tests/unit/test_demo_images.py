"""The sample images, read back by other programs: tarfile, skopeo, umoci, docker-registry."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from duccmake.demo.images import MTIME, Image, Media, host_platform
from duccmake.demo.samples import base_layer, moved_hello, sample_images
from duccmake.errors import RegistryError, RegistryUnavailable
from duccmake.layer.zstd import zstd
from duccmake.oci.manifest import ImageConfig, Manifest, parse_manifest
from support import images
from support.images import Layer, LayerBuilder


def needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def members(tar: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return {member.name: member for member in archive}


@pytest.fixture(scope="module")
def samples() -> dict[str, Image]:
    return sample_images()


# Layers


def test_builder_writes_each_kind_of_member() -> None:
    found = members(
        LayerBuilder()
        .dir("d", mode=0o1777)
        .file("d/f", "text", mode=0o4755, uid=70000, gid=3_000_000, mtime=-5)
        .symlink("d/s", "../x")
        .hardlink("d/h", "d/f")
        .fifo("d/p")
        .device("d/c", 5, 1)
        .device("d/b", 8, 0, kind="block")
        .whiteout("d/gone")
        .opaque("d/e")
        .tar()
    )
    assert (found["d"].type, found["d"].mode) == (tarfile.DIRTYPE, 0o1777)
    file = found["d/f"]
    assert (file.mode, file.uid, file.gid, file.mtime) == (0o4755, 70000, 3_000_000, -5)
    assert (found["d/s"].type, found["d/s"].linkname) == (tarfile.SYMTYPE, "../x")
    assert (found["d/h"].type, found["d/h"].linkname) == (tarfile.LNKTYPE, "d/f")
    assert found["d/p"].type == tarfile.FIFOTYPE
    assert (found["d/c"].type, found["d/c"].devmajor) == (tarfile.CHRTYPE, 5)
    assert (found["d/b"].type, found["d/b"].devmajor) == (tarfile.BLKTYPE, 8)
    assert found["d/.wh.gone"].size == found["d/e/.wh..wh..opq"].size == 0


def test_builder_keeps_odd_names_and_attributes() -> None:
    long = "x" * 300
    tar = (
        LayerBuilder()
        .file(b"latin-\xe9")
        .file("../../outside")
        .file("/absolute")
        .file(long, xattrs={"user.raw": b"\xff\x00\n"}, pax={"mtime": "1.000000001"})
        .whiteout(b"d/\xff")
        .tar()
    )
    found = members(tar)
    names = [os.fsencode(name) for name in found]
    assert names[:3] == [b"latin-\xe9", b"../../outside", b"/absolute"]
    assert names[3:] == [long.encode(), b"d/.wh.\xff"]
    records = found[long].pax_headers
    assert os.fsencode(records["SCHILY.xattr.user.raw"]) == b"\xff\x00\n"
    assert records["mtime"] == "1.000000001"


def test_same_path_twice_stays_twice() -> None:
    tar = LayerBuilder().file("a", "first").file("a", "2").tar()
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert [member.size for member in archive] == [5, 1]


def test_builder_can_go_on_after_a_layer_was_taken() -> None:
    builder = LayerBuilder().file("a")
    first = builder.layer()
    assert builder.tar() == first.tar
    assert set(members(builder.file("b").tar())) == {"a", "b"}
    assert set(members(first.tar)) == {"a"}


def test_blob_unpacks_to_the_archive_that_the_diff_id_names() -> None:
    builder = LayerBuilder().file("a", "x" * 10_000)
    tar = builder.tar()
    assert gzip.decompress(builder.blob()) == tar
    assert zstd.decompress(builder.blob("zstd")) == tar
    assert builder.blob("none") == tar
    layer = builder.layer("zstd")
    assert layer.diff_id.hex == hashlib.sha256(tar).hexdigest()
    assert layer.digest.hex == hashlib.sha256(builder.blob("zstd")).hexdigest()


# Images


def test_samples_share_their_base_and_one_digest(samples: dict[str, Image]) -> None:
    assert list(samples) == ["demo/hello:1.0", "demo/hello:latest", "demo/tools:2024"]
    assert samples["demo/hello:1.0"].digest == samples["demo/hello:latest"].digest
    assert len({image.layers[0].digest for image in samples.values()}) == 1
    assert {image.media for image in samples.values()} == {"oci", "docker"}
    assert all(len(image.layers) == 3 for image in samples.values())


def test_samples_are_the_same_bytes_every_time(samples: dict[str, Image]) -> None:
    again = sample_images()
    assert {name: i.blobs() for name, i in again.items()} == {
        name: i.blobs() for name, i in samples.items()
    }
    assert [i.digest for i in again.values()] == [i.digest for i in samples.values()]


def test_moved_tag_differs_in_its_top_layer_alone(samples: dict[str, Image]) -> None:
    before, after = samples["demo/hello:latest"].layers, moved_hello().layers
    assert before[:-1] == after[:-1]
    assert before[-1].digest != after[-1].digest


@pytest.mark.parametrize("media", ["oci", "docker"])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_manifest_and_configuration_parse(media: Media, compression: images.Compression) -> None:
    layer = LayerBuilder().file("a").layer(compression)
    labels = {"k": "v"}
    image = Image((layer, layer), {"Env": ["A=1"], "Cmd": ["x"], "Labels": labels}, media)
    manifest = parse_manifest(image.manifest_bytes, image.media_type)
    assert isinstance(manifest, Manifest)
    assert manifest.digest == image.digest
    blobs = image.blobs()
    for descriptor in (manifest.config, *manifest.layers):
        descriptor.verify(blobs[descriptor.digest])
    config = ImageConfig.parse(blobs[manifest.config.digest], layers=2)
    assert config.diff_ids == (layer.diff_id, layer.diff_id)
    assert (config.env, config.cmd, config.labels) == (("A=1",), ("x",), labels)
    assert config.platform == host_platform()


def test_base_has_no_program_where_the_machine_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, content in {"sh": b"#!/bin/true\n", "cat": b"\x7fELF", "ls": b"\x7fELF" * 50}.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(shutil, "which", lambda name, path=None: str(tmp_path / name))
    found = members(base_layer().tar)
    assert "etc/os-release" in found
    assert not [name for name in found if name.startswith("bin/")]


def test_parents_come_before_what_is_in_them(samples: dict[str, Image]) -> None:
    for layer in samples["demo/tools:2024"].layers[:1]:
        seen = {""}
        for name in members(layer.tar):
            assert name.rpartition("/")[0] in seen
            seen.add(name)


# By other programs


def unpack(image: Image, where: Path) -> Path:
    """The image's root file system as umoci makes it."""
    umoci = needs("umoci")
    images.write_oci_layout(replace(image, media="oci"), where / "layout", "it")
    command = [umoci, "unpack", "--image", f"{where}/layout:it", f"{where}/bundle"]
    if os.geteuid() != 0:
        command.insert(2, "--rootless")
    subprocess.run(command, check=True, capture_output=True)
    return where / "bundle" / "rootfs"


@pytest.mark.parametrize("name", ["demo/hello:1.0", "demo/tools:2024"])
def test_skopeo_reads_the_layout(samples: dict[str, Image], name: str, tmp_path: Path) -> None:
    skopeo = needs("skopeo")
    image = replace(samples[name], media="oci")
    images.write_oci_layout(image, tmp_path, "v1")
    done = subprocess.run(
        [skopeo, "inspect", f"oci:{tmp_path}:v1"], check=True, capture_output=True
    )
    found = json.loads(done.stdout)
    assert found["Digest"] == str(image.digest)
    assert found["Layers"] == [str(layer.digest) for layer in image.layers]
    assert found["Env"] == image.config["Env"]


def test_layout_holds_several_tags_and_moves_one(tmp_path: Path) -> None:
    one, two = (Image((LayerBuilder().file(name).layer(),)) for name in "ab")
    for image, tag in ((one, "x"), (one, "y"), (two, "x")):
        images.write_oci_layout(image, tmp_path, tag)
    entries = json.loads((tmp_path / "index.json").read_bytes())["manifests"]
    tags = {
        entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"]
        for entry in entries
    }
    assert tags == {"x": str(two.digest), "y": str(one.digest)}
    assert len(entries) == 2


def test_hello_unpacks_as_its_layers_say(samples: dict[str, Image], tmp_path: Path) -> None:
    root = unpack(samples["demo/hello:1.0"], tmp_path)
    share = root / "usr/share/hello"
    assert not (share / "draft").exists()
    assert (share / "greeting").read_text() == "Hello from 1.0\n"
    assert (share / "licence").stat().st_ino == (share / "license").stat().st_ino
    assert (root / "usr/local/bin/hi").readlink() == Path("hello")
    assert [path.name for path in (root / "var/cache/hello").iterdir()] == ["new"]
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (share / "greeting").stat().st_mtime == MTIME + 60


@pytest.mark.parametrize(
    ("name", "command", "output"),
    [
        ("demo/hello:1.0", ["hi", "reader"], b"Hello from 1.0, reader!\n"),
        (
            "demo/tools:2024",
            ["/bin/sh", "-c", "cd /work; cat notes; /bin/echo *; /bin/ls tools/"],
            b"Nothing yet.\nnotes tools\nsurvey\n",
        ),
    ],
)
def test_programs_run_from_the_unpacked_image(
    samples: dict[str, Image], tmp_path: Path, name: str, command: list[str], output: bytes
) -> None:
    bwrap = needs("bwrap")
    root = unpack(samples[name], tmp_path)
    if not (root / "bin/sh").is_symlink():
        pytest.skip("this machine has no program that could be taken along")
    sandbox = [bwrap, "--unshare-user", "--ro-bind", str(root), "/", "--clearenv"]
    sandbox += ["--setenv", "PATH", "/usr/local/bin:/usr/bin:/bin"]
    probe = subprocess.run([bwrap, "--unshare-user", "--ro-bind", "/", "/", "true"], check=False)
    if probe.returncode:
        pytest.skip("bwrap may not make a user namespace here")
    done = subprocess.run([*sandbox, *command], check=True, capture_output=True)
    assert done.stdout == output


# A registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of Debian's docker-registry, on a port of its own choice."""
    program = needs("docker-registry")
    directory = tmp_path_factory.mktemp("registry")
    (directory / "config.yml").write_text(
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
        "http: {addr: '127.0.0.1:0'}\n"
    )
    with subprocess.Popen(
        [program, "serve", str(directory / "config.yml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stderr is not None
        try:
            for line in server.stderr:
                if started := re.search(r"listening on (127\.0\.0\.1:\d+)", line):
                    yield started[1]
                    break
            else:
                pytest.fail("docker-registry ended before it listened")
        finally:
            server.terminate()


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods of the requests that are sent from now on."""
    methods: list[str] = []
    send = requests.Session.request

    def record(self: requests.Session, method: str, url: str, **rest: object) -> requests.Response:
        methods.append(method)
        return send(self, method, url, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(requests.Session, "request", record)
    return methods


def inspect(reference: str) -> dict[str, object]:
    skopeo = needs("skopeo")
    command = [skopeo, "inspect", "--tls-verify=false", f"docker://{reference}"]
    done = subprocess.run(command, check=True, capture_output=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_pushed_samples_and_a_moved_tag_are_served(
    registry: str, samples: dict[str, Image]
) -> None:
    digests = images.push_samples(registry)
    assert digests == {name: image.digest for name, image in samples.items()}
    for name, image in samples.items():
        found = inspect(f"{registry}/{name}")
        assert found["Digest"] == str(image.digest)
        assert found["Layers"] == [str(layer.digest) for layer in image.layers]
    moved = images.move_tag(registry)
    assert inspect(f"{registry}/demo/hello:latest")["Digest"] == str(moved)
    assert inspect(f"{registry}/demo/hello:1.0")["Digest"] == str(digests["demo/hello:1.0"])


def test_second_push_uploads_no_blob(registry: str, requested: list[str]) -> None:
    image = Image((LayerBuilder().file("a").layer(), LayerBuilder().file("b").layer("zstd")))
    images.push(image, registry, "twice", "v1")
    assert requested == ["HEAD", "POST", "PUT"] * 3 + ["PUT"]
    requested.clear()
    images.push(image, registry, "twice", "v1")
    assert requested == ["HEAD"] * 3 + ["PUT"]


def test_refused_push_says_what_was_answered(registry: str) -> None:
    image = Image((Layer(b""),))
    with pytest.raises(RegistryError, match="was answered with 4"):
        images.push(image, registry, "UPPER", "v1")


def test_push_without_a_registry_says_so() -> None:
    with pytest.raises(RegistryUnavailable, match="see whether the registry runs"):
        images.push(Image(()), "127.0.0.1:1", "any", "v1")
