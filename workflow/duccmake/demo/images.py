"""Small real images of several layers, made on the spot from what the machine has.

`LayerBuilder` makes layers, odd ones too; an `Image` is their value, which
`push` brings to a registry and `write_oci_layout` to a directory.  The same
machine makes the same bytes each time.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform as machine
import re
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self, TypedDict, Unpack
from urllib.parse import urljoin

import requests

from ..errors import RegistryError, RegistryUnavailable
from ..layer.zstd import zstd
from ..oci.manifest import DOCKER_CONFIG, DOCKER_MANIFEST, OCI_CONFIG, OCI_MANIFEST
from ..oci.reference import Digest, Platform

MTIME = 1_700_000_000
"""When everything in a layer was last changed unless said otherwise, seconds since the epoch."""

Compression = Literal["gzip", "zstd", "none"]
Media = Literal["oci", "docker"]
Name = str | bytes


class Attributes(TypedDict, total=False):
    """What any member of a layer may have.

    ``pax`` holds further extended header records; an ``mtime`` in it counts
    before the other and is exact to the nanosecond.
    """

    mode: int
    uid: int
    gid: int
    mtime: float
    xattrs: Mapping[str, bytes]
    pax: Mapping[str, str]


class LayerBuilder:
    """Collects a layer's members, in the order of the calls and without any check.

    Names are written as they are given, bytes that are no UTF-8, ``..`` and
    leading slashes included.
    """

    def __init__(self) -> None:
        self._members: list[tuple[tarfile.TarInfo, bytes]] = []

    def file(
        self, path: Name, content: bytes | str = b"", **attributes: Unpack[Attributes]
    ) -> Self:
        """Add a regular file."""
        data = content.encode() if isinstance(content, str) else content
        return self._add(_member(path, tarfile.REGTYPE, 0o644, attributes), data)

    def dir(self, path: Name, **attributes: Unpack[Attributes]) -> Self:
        """Add a directory."""
        return self._add(_member(path, tarfile.DIRTYPE, 0o755, attributes))

    def symlink(self, path: Name, target: Name, **attributes: Unpack[Attributes]) -> Self:
        """Add a symbolic link."""
        return self._add(_member(path, tarfile.SYMTYPE, 0o777, attributes, target))

    def hardlink(self, path: Name, target: Name, **attributes: Unpack[Attributes]) -> Self:
        """Add a further name of ``target``, which is a path from the root."""
        return self._add(_member(path, tarfile.LNKTYPE, 0o644, attributes, target))

    def fifo(self, path: Name, **attributes: Unpack[Attributes]) -> Self:
        """Add a named pipe."""
        return self._add(_member(path, tarfile.FIFOTYPE, 0o644, attributes))

    def device(
        self,
        path: Name,
        major: int,
        minor: int,
        *,
        kind: Literal["char", "block"] = "char",
        **attributes: Unpack[Attributes],
    ) -> Self:
        """Add a device node."""
        typeflag = tarfile.CHRTYPE if kind == "char" else tarfile.BLKTYPE
        member = _member(path, typeflag, 0o644, attributes)
        member.devmajor, member.devminor = major, minor
        return self._add(member)

    def whiteout(self, path: Name) -> Self:
        """Hide ``path`` of the lower layers (image-spec, layer.md, "Whiteouts")."""
        parent, slash, name = _text(path).rpartition("/")
        return self.file(f"{parent}{slash}.wh.{name}")

    def opaque(self, path: Name) -> Self:
        """Hide all that lower layers have in ``path`` (layer.md, "Opaque Whiteout")."""
        return self.file(f"{_text(path)}/.wh..wh..opq")

    def tar(self) -> bytes:
        """The archive, in the POSIX (pax) format."""
        buffer = io.BytesIO()
        with tarfile.open(
            fileobj=buffer,
            mode="w",
            format=tarfile.PAX_FORMAT,
            encoding="utf-8",
            errors="surrogateescape",
        ) as archive:
            for member, content in self._members:
                archive.addfile(member, io.BytesIO(content))
        return buffer.getvalue()

    def layer(self, compression: Compression = "gzip") -> Layer:
        """The layer as a value."""
        return Layer(self.tar(), compression)

    def blob(self, compression: Compression = "gzip") -> bytes:
        """The bytes that a registry would have."""
        return self.layer(compression).blob

    def _add(self, member: tarfile.TarInfo, content: bytes = b"") -> Self:
        member.size = len(content)
        self._members.append((member, content))
        return self


def _member(
    path: Name, typeflag: bytes, mode: int, attributes: Attributes, target: Name = ""
) -> tarfile.TarInfo:
    member = tarfile.TarInfo(_text(path))
    member.type = typeflag
    member.linkname = _text(target)
    member.mode = attributes.get("mode", mode)
    member.uid = attributes.get("uid", 0)
    member.gid = attributes.get("gid", 0)
    member.mtime = attributes.get("mtime", MTIME)
    member.pax_headers = {
        **{
            f"SCHILY.xattr.{key}": _text(value)
            for key, value in attributes.get("xattrs", {}).items()
        },
        **attributes.get("pax", {}),
    }
    return member


def _text(name: Name) -> str:
    return name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: its archive, and its ``blob``, which is the archive as a registry has it."""

    tar: bytes = field(repr=False)
    compression: Compression = "gzip"
    blob: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "blob", _compressed(self.tar, self.compression))

    @property
    def digest(self) -> Digest:
        """The digest of the blob."""
        return _digest(self.blob)

    @property
    def diff_id(self) -> Digest:
        """The digest of the archive."""
        return _digest(self.tar)


def _compressed(data: bytes, compression: Compression) -> bytes:
    if compression == "gzip":
        return gzip.compress(data, compresslevel=6, mtime=0)
    if compression == "zstd":
        return zstd.compress(data)
    return data


def _digest(content: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(content).hexdigest())


def host_platform() -> Platform:
    """The platform of this machine, of which the sample images' programs are."""
    architectures = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}
    name = machine.machine().lower()
    return Platform("linux", architectures.get(name, name))


_TYPES: Mapping[Media, tuple[str, str, Mapping[Compression, str]]] = {
    "oci": (
        OCI_MANIFEST,
        OCI_CONFIG,
        {
            "none": "application/vnd.oci.image.layer.v1.tar",
            "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
            "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
        },
    ),
    "docker": (
        DOCKER_MANIFEST,
        DOCKER_CONFIG,
        {
            "none": "application/vnd.docker.image.rootfs.diff.tar",
            "gzip": "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "zstd": "application/vnd.docker.image.rootfs.diff.tar.zstd",
        },
    ),
}


@dataclass(frozen=True, slots=True)
class Image:
    """An image for one platform: layers, lowest first, and what it runs.

    ``config`` holds the members of the configuration's ``config`` (Env, Cmd,
    Labels, ...; image-spec, config.md), ``media`` says in whose format the
    manifest is written.
    """

    layers: tuple[Layer, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    media: Media = "oci"
    platform: Platform = field(default_factory=host_platform)

    @property
    def media_type(self) -> str:
        """The manifest's media type."""
        return _TYPES[self.media][0]

    @property
    def config_bytes(self) -> bytes:
        """The configuration blob."""
        created = "2024-01-01T00:00:00Z"
        return _json(
            {
                "created": created,
                "architecture": self.platform.architecture,
                "os": self.platform.os,
                **({"variant": self.platform.variant} if self.platform.variant else {}),
                "config": dict(self.config),
                "rootfs": {
                    "type": "layers",
                    "diff_ids": [str(layer.diff_id) for layer in self.layers],
                },
                "history": [{"created": created} for _ in self.layers],
            }
        )

    @property
    def manifest_bytes(self) -> bytes:
        """The manifest."""
        media_type, config_type, layer_types = _TYPES[self.media]
        return _json(
            {
                "schemaVersion": 2,
                "mediaType": media_type,
                "config": _descriptor(config_type, self.config_bytes),
                "layers": [
                    _descriptor(layer_types[layer.compression], layer.blob) for layer in self.layers
                ],
            }
        )

    @property
    def digest(self) -> Digest:
        """The digest of the manifest."""
        return _digest(self.manifest_bytes)

    def blobs(self) -> dict[Digest, bytes]:
        """The layers' blobs and the configuration: all that the manifest names."""
        return {layer.digest: layer.blob for layer in self.layers} | {
            _digest(self.config_bytes): self.config_bytes
        }


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "size": len(content), "digest": str(_digest(content))}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# Where images go


def push(image: Image, host: str, repository: str, tag: str) -> Digest:
    """Push an image over plain HTTP, only the blobs that are missing; returns its digest.

    ``host`` is ``name:port``.  Each blob goes up in one piece (distribution-spec,
    "POST then PUT").  Raises `RegistryError`, `RegistryUnavailable`.
    """
    repository_url = f"http://{host}/v2/{repository}"
    with requests.Session() as registry:
        registry.trust_env = False  # no proxy stands before a registry of our own
        for digest, content in image.blobs().items():
            _push_blob(registry, repository_url, digest, content)
        _request(
            registry,
            "PUT",
            f"{repository_url}/manifests/{tag}",
            data=image.manifest_bytes,
            headers={"Content-Type": image.media_type},
        )
    return image.digest


def _push_blob(
    registry: requests.Session, repository_url: str, digest: Digest, content: bytes
) -> None:
    known = _request(registry, "HEAD", f"{repository_url}/blobs/{digest}", accept=(200, 404))
    if known.status_code == 200:
        return
    started = _request(registry, "POST", f"{repository_url}/blobs/uploads/")
    _request(
        registry,
        "PUT",
        urljoin(started.url, started.headers["Location"]),
        params={"digest": str(digest)},
        data=content,
        headers={"Content-Type": "application/octet-stream"},
    )


def _request(
    registry: requests.Session,
    method: str,
    url: str,
    *,
    accept: tuple[int, ...] = (200, 201, 202),
    **arguments: Any,
) -> requests.Response:
    hint = "see whether the registry runs and takes pushes"
    try:
        response = registry.request(method, url, timeout=30, **arguments)
    except requests.RequestException as error:
        raise RegistryUnavailable(f"{method} {url}: {error}", step="push", hint=hint) from None
    if response.status_code not in accept:
        raise RegistryError(
            f"{method} {url} was answered with {response.status_code} {response.text[:200]!r}",
            step="push",
            hint=hint,
        )
    return response


def write_oci_layout(image: Image, directory: Path, tag: str) -> None:
    """Add an image to an OCI image layout (image-spec, image-layout.md), made if need be."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for digest, content in (image.blobs() | {image.digest: image.manifest_bytes}).items():
        (blobs / digest.hex).write_bytes(content)
    (directory / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    index = directory / "index.json"
    others = json.loads(index.read_bytes())["manifests"] if index.exists() else []
    annotations = {"org.opencontainers.image.ref.name": tag}
    entry = _descriptor(image.media_type, image.manifest_bytes) | {"annotations": annotations}
    others = [other for other in others if other["annotations"] != annotations]
    index.write_bytes(_json({"schemaVersion": 2, "manifests": [*others, entry]}))


# The sample images


def sample_images() -> dict[str, Image]:
    """Three names for two images that share their base; one name is to be moved later."""
    base = base_layer()
    hello = _hello(base, "1.0")
    return {"demo/hello:1.0": hello, "demo/hello:latest": hello, "demo/tools:2024": _tools(base)}


def moved_hello() -> Image:
    """What ``demo/hello:latest`` becomes: another top layer, all below as before."""
    return _hello(base_layer(), "1.1")


def push_samples(host: str) -> dict[str, Digest]:
    """Push the sample images to a registry; returns their digests by name."""
    return {name: _push_named(image, host, name) for name, image in sample_images().items()}


def move_tag(host: str) -> Digest:
    """Push a new version of ``demo/hello:latest``; returns its digest."""
    return _push_named(moved_hello(), host, "demo/hello:latest")


def _push_named(image: Image, host: str, name: str) -> Digest:
    repository, _, tag = name.partition(":")
    return push(image, host, repository, tag)


def _hello(base: Layer, version: str) -> Image:
    script = (
        "#!/bin/sh\n"
        'while read -r line; do echo "$line, ${1:-$HELLO_NAME}!"; done'
        " < /usr/share/hello/greeting\n"
    )
    application = (
        LayerBuilder()
        .dir("usr/local/bin")
        .file("usr/local/bin/hello", script, mode=0o755)
        .dir("usr/share/hello")
        .file("usr/share/hello/greeting", "Good day\n")
        .file("usr/share/hello/draft", "not for the public\n")
        .dir("var/cache/hello")
        .file("var/cache/hello/old", "stale\n")
    )
    changes = (
        LayerBuilder()
        .dir("usr/share/hello")
        .whiteout("usr/share/hello/draft")
        .file("usr/share/hello/greeting", f"Hello from {version}\n", mtime=MTIME + 60)
        .file("usr/share/hello/licence", "Do as you please.\n")
        .hardlink("usr/share/hello/license", "usr/share/hello/licence")
        .symlink("usr/local/bin/hi", "hello")
        .dir("var/cache/hello")
        .opaque("var/cache/hello")
        .file("var/cache/hello/new", "fresh\n")
    )
    return Image(
        (base, application.layer(), changes.layer()),
        {
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "HELLO_NAME=world"],
            "Entrypoint": ["/usr/local/bin/hello"],
            "Cmd": ["you"],
            "Labels": {"org.opencontainers.image.version": version},
        },
        media="docker",
    )


def _tools(base: Layer) -> Image:
    script = '#!/bin/sh\necho "$MOTTO"\nls -l "${@:-.}"\n'
    tools = LayerBuilder().dir("opt/tools").file("opt/tools/survey", script, mode=0o755)
    work = (
        LayerBuilder()
        .dir("work", uid=1000, gid=1000)
        .file("work/notes", "Nothing yet.\n", uid=1000, gid=1000)
        .symlink("work/tools", "/opt/tools")
    )
    return Image(
        (base, tools.layer(), work.layer()),
        {
            "User": "demo",
            "Env": ["PATH=/opt/tools:/usr/bin:/bin", 'MOTTO=it\'s "free", not $5'],
            "Cmd": ["survey"],
            "WorkingDir": "/work",
            "Labels": {"org.opencontainers.image.title": "tools"},
        },
    )


def base_layer() -> Layer:
    """A root file system with a shell and a few programs, as far as this machine has them.

    Where none can be taken along (no ELF programs, a library that is not
    found) ``bin/sh`` is missing and there are plain files only.
    """
    files, links = _host_programs("sh", "cat", "ls", "echo")
    for path, text in _PLAIN_FILES.items():
        files[path] = (0o644, text.encode())
    builder = LayerBuilder()
    for path in sorted(_parents([*files, *links, "usr/local/bin/x", "usr/share/x", "var/cache/x"])):
        builder.dir(path)
    builder.dir("root", mode=0o700).dir("tmp", mode=0o1777)
    builder.dir("home").dir("home/demo", uid=1000, gid=1000)
    for path, (mode, content) in sorted(files.items()):
        builder.file(path, content, mode=mode)
    for path, target in sorted(links.items()):
        builder.symlink(path, target)
    return builder.layer()


_PLAIN_FILES = {
    "etc/os-release": 'ID=demo\nNAME="duccmake demo"\nVERSION_ID=1\n',
    "etc/passwd": "root:x:0:0::/root:/bin/sh\ndemo:x:1000:1000::/home/demo:/bin/sh\n",
    "etc/group": "root:x:0:\ndemo:x:1000:\n",
}


def _parents(paths: Iterable[str]) -> set[str]:
    return {str(up) for path in paths for up in PurePosixPath(path).parents} - {"."}


# Programs of this machine


def _host_programs(*names: str) -> tuple[dict[str, tuple[int, bytes]], dict[str, str]]:
    """Programs with all that they load, under this machine's paths, and links to them in bin."""
    files: dict[str, tuple[int, bytes]] = {}
    links = {}
    for name in names:
        found = shutil.which(name, path="/bin:/usr/bin") or shutil.which(name)
        if found is None:
            continue
        program = Path(found).resolve()
        try:
            needed = [str(program), *_libraries(program)]
            files |= {path.lstrip("/"): (0o755, Path(path).read_bytes()) for path in needed}
        except (OSError, ValueError, struct.error, subprocess.SubprocessError):
            continue  # the image does without it
        if str(program) != f"/bin/{name}":
            links[f"bin/{name}"] = f"..{program}"
    return files, links


def _libraries(program: Path) -> list[str]:
    """The loader of a program and the libraries that it would load, by their paths.

    Empty for a static program; `ValueError` for what is no ELF program or
    lacks a library.  glibc's loader and musl's both know ``--list``.
    """
    loader = _loader(program.read_bytes())
    if not loader:
        return []
    listing = subprocess.run(
        [loader, "--list", program], capture_output=True, check=True, env={}, text=True, timeout=30
    ).stdout
    if "not found" in listing:
        raise ValueError(f"{program} lacks a library")
    return sorted({loader, *re.findall(r"(/\S+) \(0x", listing)})


def _loader(elf: bytes) -> str:
    """The path in the PT_INTERP segment (System V ABI, "Program Header"), or nothing."""
    if elf[:4] != b"\x7fELF" or len(elf) < 64:
        raise ValueError("no ELF program")
    wide, order = elf[4] == 2, "<" if elf[5] == 1 else ">"
    table = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", elf, 32 if wide else 28)[0]
    size, count = struct.unpack_from(f"{order}HH", elf, 54 if wide else 42)
    for header in range(table, table + size * count, size):
        if struct.unpack_from(f"{order}I", elf, header)[0] == 3:
            layout, offset = ("Q16xQ", 8) if wide else ("I8xI", 4)
            start, length = struct.unpack_from(f"{order}{layout}", elf, header + offset)
            return elf[start : start + length].rstrip(b"\0").decode()
    return ""
