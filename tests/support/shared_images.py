"""Sets of images that share blobs, diff_ids and configurations; some lie in one field.

A `World` is such a set, with the runs in which its images enter a wish list: a function
of its number.  What is in an image is told by an application of its archives that knows
nothing of duccmake's.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import posixpath
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from duccmake.demo.registry import Store
from duccmake.layer.zstd import zstd
from duccmake.oci.manifest import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from support.images import LayerBuilder

STEPS = 3
"""Runs over which a world comes into being."""

Tree = dict[str, str]
"""What is at each path: ``dir``, ``file TEXT`` or ``link TARGET``."""

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_ROOT = os.geteuid() == 0


def digest(content: bytes, algorithm: str = "sha256") -> str:
    """The digest of some bytes, as a string."""
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


# --- what is in an image ---------------------------------------------------


def applied(tars: Sequence[bytes]) -> Tree:
    """The tree that archives make, lowest first (image-spec, layer.md)."""
    tree: Tree = {}
    for tar in tars:
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            members = archive.getmembers()
            for member in members:
                parent, name = posixpath.split(member.name)
                if name == ".wh..wh..opq":
                    _clear(tree, parent)
                elif name.startswith(".wh."):
                    _clear(tree, posixpath.join(parent, name[4:]))
                    tree.pop(posixpath.join(parent, name[4:]), None)
            for member in members:
                if not posixpath.basename(member.name).startswith(".wh."):
                    if not member.isdir():
                        _clear(tree, member.name)
                    tree[member.name] = _entry(tree, archive, member)
    return tree


def own_files(tar: bytes) -> Tree:
    """What an archive has itself: without whiteouts, and hard links to what lies below."""
    found: Tree = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            if not posixpath.basename(member.name).startswith(".wh.") and not member.islnk():
                found[member.name] = _entry(found, archive, member)
    return found


def _clear(tree: Tree, directory: str) -> None:
    for path in [path for path in tree if path.startswith(f"{directory}/")]:
        del tree[path]


def _entry(tree: Tree, archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    if member.isdir():
        return "dir"
    if member.issym():
        return f"link {member.linkname}"
    if member.islnk():
        return tree[member.linkname]
    content = archive.extractfile(member)
    assert content is not None
    return f"file {content.read().decode()}"


# --- what makers push -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Blob:
    """An archive as a registry has it; ``media`` is how its media type ends."""

    tar: bytes = field(repr=False)
    content: bytes = field(repr=False)
    media: str

    @property
    def digest(self) -> str:
        return digest(self.content)

    @property
    def diff_id(self) -> str:
        return digest(self.tar)


def gzipped(tar: bytes) -> Blob:
    return Blob(tar, gzip.compress(tar, mtime=0), "+gzip")


RECOMPRESSED: Mapping[str, Callable[[bytes], Blob]] = {
    "gzip": lambda tar: Blob(tar, gzip.compress(tar, mtime=1), "+gzip"),
    "zstd": lambda tar: Blob(tar, zstd.compress(tar), "+zstd"),
    "none": lambda tar: Blob(tar, tar, ""),
}
"""Other blobs of the same archive."""


@dataclass(frozen=True, slots=True)
class Spec:
    """An image as its maker pushes it, the truth or not.

    ``claims`` are the configuration's diff_ids, ``stated`` replaces members of the
    layers' descriptors, by position, and ``config_size`` the size in that of the
    configuration.  ``listed_as`` is the architecture that an index gives it, and
    ``absent`` are layers that the registry has not, or damaged.

    An image that has to be refused is ``refused`` with a reason that names all of one of
    these sets of words.  ``whatever``: it may be converted as well.
    """

    kind: str
    blobs: tuple[Blob, ...]
    claims: tuple[str, ...]
    author: str = ""
    architecture: str = "amd64"
    stated: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    config_size: int | None = None
    listed_as: str = ""
    absent: Mapping[int, bytes | None] = field(default_factory=dict)
    refused: tuple[tuple[str, ...], ...] = ()
    whatever: bool = False

    @property
    def honest(self) -> bool:
        return not self.refused

    @property
    def tars(self) -> tuple[bytes, ...]:
        return tuple(blob.tar for blob in self.blobs)

    @property
    def tree(self) -> Tree:
        """What is in it."""
        return applied(self.tars)

    @property
    def config(self) -> bytes:
        return _json(
            {
                "architecture": self.architecture,
                "os": "linux",
                "author": self.author,
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": list(self.claims)},
            }
        )

    @property
    def manifest(self) -> bytes:
        config = {"mediaType": OCI_CONFIG, **_sized(self.config)}
        if self.config_size is not None:
            config["size"] = self.config_size
        layers = [
            {
                "mediaType": _LAYER + blob.media,
                **_sized(blob.content),
                **self.stated.get(number, {}),
            }
            for number, blob in enumerate(self.blobs)
        ]
        return _json(
            {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}
        )

    def push(self, store: Store, name: str) -> None:
        """Bring it to a registry, which believes all of it; ``name`` is repository and tag."""
        repository, _, tag = name.partition(":")
        store.put_blob(self.config)
        for number, blob in enumerate(self.blobs):
            if number not in self.absent:
                store.put_blob(blob.content)
            elif (damaged := self.absent[number]) is not None:
                path = store.blob_path(store.put_blob(blob.content))
                path.write_bytes(damaged)
        if not self.listed_as:
            store.put_manifest(repository, OCI_MANIFEST, self.manifest, tag)
            return
        store.put_manifest(repository, OCI_MANIFEST, self.manifest)
        platform = {"os": "linux", "architecture": self.listed_as}
        entry = {"mediaType": OCI_MANIFEST, "platform": platform, **_sized(self.manifest)}
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
        store.put_manifest(repository, OCI_INDEX, _json(index), tag)


def _sized(content: bytes) -> dict[str, Any]:
    return {"digest": digest(content), "size": len(content)}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def honest(kind: str, *blobs: Blob, **more: Any) -> Spec:
    """An image that says what is so."""
    return Spec(kind, blobs, tuple(blob.diff_id for blob in blobs), **more)


def lying(spec: Spec, kind: str, claims: Sequence[str]) -> Spec:
    """The image with other diff_ids, which a measurement finds out."""
    pairs = [
        (claim, digest(blob.tar, claim.partition(":")[0]))
        for claim, blob in zip(claims, spec.blobs, strict=True)
    ]
    wrong = tuple(pair for pair in pairs if pair[0] != pair[1])
    return replace(spec, kind=kind, claims=tuple(claims), refused=wrong)


# --- worlds -------------------------------------------------------------------


class Making:
    """A world that is being made: archives that only it has, and two images of them.

    Both have the layer ``shared``.
    """

    def __init__(self, number: int) -> None:
        self.random = Random(f"world {number}")
        self._number = number
        self._made = 0
        self.shared = self.blob(LayerBuilder().dir("d").file("d/low", self.text()).file("gone"))
        more = [LayerBuilder().dir("d").file("d/high", self.text())]
        if _ROOT and self.random.random() < 0.5:
            # Without root, overlays of layers cannot say so.
            self.random.choice([lambda one: one.whiteout("gone"), lambda one: one.opaque("d")])(
                more[0]
            )
        if self.random.random() < 0.5:
            more.append(LayerBuilder().hardlink("hard", "content"))
        above = [
            self.blob(each) if number == 0 else self._bare(each) for number, each in enumerate(more)
        ]
        self.victim = honest("victim", self.shared, *above, author=self.text())
        self.other = honest("other", self.shared, self.blob(), author=self.text())

    def text(self) -> str:
        """Words that are nowhere else."""
        self._made += 1
        return f"{self._number}.{self._made}"

    def blob(self, builder: LayerBuilder | None = None) -> Blob:
        """A layer of its own, with a file ``content``."""
        return self._bare((builder or LayerBuilder()).file("content", self.text()))

    def _bare(self, builder: LayerBuilder) -> Blob:
        return gzipped(builder.file(f"own-{self.text()}", self.text()).tar())

    def nonsense(self, algorithm: str = "sha256") -> str:
        """A digest of nothing that there is."""
        return digest(self.text().encode(), algorithm)

    def image(self, *blobs: Blob) -> Spec:
        """An image of the layer that others have, and others or one of its own."""
        return honest("", self.shared, *(blobs or (self.blob(),)), author=self.text())


def _own_diff_id(making: Making) -> list[Spec]:
    image = making.image()
    return [lying(image, "diff_id of its own layer", [image.claims[0], making.nonsense()])]


def _shared_diff_id(making: Making) -> list[Spec]:
    image = making.image()
    return [lying(image, "diff_id of a shared layer", [making.nonsense(), image.claims[1]])]


def _borrowed_diff_id(making: Making) -> list[Spec]:
    image = making.image()
    claims = [making.victim.claims[0], making.victim.claims[1]]
    return [lying(image, "another layer's diff_id for its own", claims)]


def _swapped(making: Making) -> list[Spec]:
    image = making.image(making.victim.blobs[1])
    return [lying(image, "swapped diff_ids", image.claims[::-1])]


def _sha512(making: Making) -> list[Spec]:
    image = making.image()
    true = [digest(tar, "sha512") for tar in image.tars]
    wrong = lying(image, "wrong sha512 for a shared layer", [making.nonsense("sha512"), true[1]])
    return [wrong, replace(image, kind="right sha512", claims=tuple(true), author=making.text())]


def _stolen_config(making: Making) -> list[Spec]:
    own = tuple(making.blob() for _ in making.victim.blobs)
    image = replace(making.victim, blobs=own)
    plain = honest("the thief's other image", *own, author=making.text())
    return [lying(image, "victim's configuration over its own layers", image.claims), plain]


def _stolen_over_shared(making: Making) -> list[Spec]:
    blobs = (*making.victim.blobs[:-1], making.other.blobs[1])
    image = replace(making.victim, blobs=blobs)
    return [lying(image, "victim's configuration over others' layers", image.claims)]


def _reversed(making: Making) -> list[Spec]:
    image = replace(making.victim, blobs=making.victim.blobs[1::-1] + making.victim.blobs[2:])
    return [lying(image, "victim's configuration over its layers in another order", image.claims)]


def _too_few(making: Making) -> list[Spec]:
    image = replace(making.victim, blobs=making.victim.blobs[:1])
    words = (str(len(image.claims)), "1")
    return [replace(image, kind="victim's configuration over one layer", refused=(words,))]


def _second_place(making: Making) -> list[Spec]:
    own = making.blob()
    image = honest("", making.shared, own, making.shared, author=making.text())
    claims = [making.shared.diff_id, own.diff_id, making.nonsense()]
    twice = replace(image, kind="a layer twice", author=making.text())
    return [lying(image, "another diff_id where a layer comes again", claims), twice]


def _first_place(making: Making) -> list[Spec]:
    own = making.blob()
    image = honest("", own, making.shared, own, author=making.text())
    claims = [making.nonsense(), making.shared.diff_id, own.diff_id]
    plain = honest("the layer that comes twice", own, author=making.text())
    return [lying(image, "another diff_id where a layer comes first", claims), plain]


def _size(what: str, size: Callable[[int], int], *, own: bool = False) -> Callable[..., list[Spec]]:
    def make(making: Making) -> list[Spec]:
        image = making.image()
        number = 1 if own else 0
        true = len(image.blobs[number].content)
        whose = "its own" if own else "a shared"
        # A download ends with the first byte too many: nobody knows how many there were.
        early = ((str(size(true)), "more bytes"),) if own and size(true) < true else ()
        return [
            replace(
                image,
                kind=f"{what} for {whose} layer",
                stated={number: {"size": size(true)}},
                refused=((str(size(true)), str(true)), *early),
            )
        ]

    return make


def _config_size(making: Making) -> list[Spec]:
    true = len(making.victim.config)
    return [
        replace(
            making.victim,
            kind="wrong size of the victim's configuration",
            config_size=true + 7,
            refused=((str(true), str(true + 7)),),
        )
    ]


def _platform(making: Making) -> list[Spec]:
    """An index gives another platform than the configuration, which others have too."""
    image = replace(making.image(), architecture="s390x")
    return [
        replace(image, kind="platform", refused=(("linux/s390x", "linux/amd64"),)),
        replace(image, kind="platform by an index", listed_as="amd64", whatever=True),
        replace(making.victim, kind="victim by an index", listed_as="amd64"),
    ]


def _other_platform(making: Making) -> list[Spec]:
    return [
        replace(
            making.victim,
            kind="victim, listed as another platform's",
            listed_as="arm64",
            refused=(("linux/arm64", "linux/amd64"),),
        )
    ]


def _lost(making: Making) -> list[Spec]:
    blobs = tuple(RECOMPRESSED["zstd"](tar) for tar in making.victim.tars)
    image = replace(making.victim, blobs=blobs, absent={1: None})
    return [replace(image, kind="victim's configuration, a layer lost", refused=(("404",),))]


def _damaged(making: Making) -> list[Spec]:
    blobs = tuple(RECOMPRESSED["none"](tar) for tar in making.victim.tars)
    damaged = b"x" * len(blobs[1].content)
    image = replace(making.victim, blobs=blobs, absent={1: damaged})
    words = (blobs[1].digest, digest(damaged))
    return [replace(image, kind="victim's configuration, a layer damaged", refused=(words,))]


def _recompressed(making: Making) -> list[Spec]:
    how = making.random.sample(sorted(RECOMPRESSED), 2)
    return [
        replace(
            making.victim, kind=f"the same by {name}", blobs=tuple(map(RECOMPRESSED[name], tars))
        )
        for name in how
        for tars in [making.victim.tars]
    ]


def _media_type(making: Making) -> list[Spec]:
    blobs = (RECOMPRESSED["zstd"](making.shared.tar), *making.victim.blobs[1:])
    right = replace(making.victim, kind="zstd", blobs=blobs)
    wrong = replace(right, kind="gzip that is zstd", stated={0: {"mediaType": f"{_LAYER}+gzip"}})
    plain = replace(making.image(), kind="plain that is gzip", stated={0: {"mediaType": _LAYER}})
    return [wrong, right, plain]


def _urls(making: Making) -> list[Spec]:
    foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    elsewhere = {"urls": ["https://localhost:1/elsewhere"]}
    image = making.image()
    return [
        replace(image, kind="urls", stated={0: elsewhere}),
        replace(
            making.victim,
            kind="foreign layers",
            stated={0: {"mediaType": foreign, **elsewhere}},
        ),
    ]


KINDS: Mapping[str, Callable[[Making], list[Spec]]] = {
    "own-diff-id": _own_diff_id,
    "shared-diff-id": _shared_diff_id,
    "borrowed-diff-id": _borrowed_diff_id,
    "swapped-diff-ids": _swapped,
    "sha512": _sha512,
    "stolen-config": _stolen_config,
    "stolen-over-shared": _stolen_over_shared,
    "reversed-layers": _reversed,
    "too-few-layers": _too_few,
    "second-place": _second_place,
    "first-place": _first_place,
    "size-zero": _size("size 0", lambda true: 0),
    "size-small": _size("too small a size", lambda true: true - 1),
    "size-large": _size("too large a size", lambda true: true + 10**9),
    "own-size-small": _size("too small a size", lambda true: true // 2, own=True),
    "own-size-large": _size("too large a size", lambda true: true + 1, own=True),
    "config-size": _config_size,
    "platform": _platform,
    "other-platform": _other_platform,
    "lost-layer": _lost,
    "damaged-layer": _damaged,
    "recompressed": _recompressed,
    "media-type": _media_type,
    "urls": _urls,
}
"""What is odd about a world; the first image that each makes is the odd one."""


@dataclass(frozen=True, slots=True)
class World:
    """Images by name, in the run in which they come or change; ``unwished`` is only pushed."""

    number: int
    kind: str
    steps: tuple[Mapping[str, Spec], ...]
    unwished: Spec

    @property
    def prefix(self) -> str:
        """How the names of its images begin."""
        return f"w{self.number:04}/"

    @property
    def specs(self) -> list[Spec]:
        """All its images."""
        return [spec for step in self.steps for spec in step.values()] + [self.unwished]


def world(number: int) -> World:
    """The world of that number: a kind of lie (they come in turn), in any order."""
    making = Making(number)
    kind = list(KINDS)[number % len(KINDS)]
    odd = KINDS[kind](making)
    specs = [making.victim, making.other, *odd]
    random = making.random
    if random.random() < 0.5:
        specs.append(replace(making.victim, kind="victim by another name"))
    order = random.sample(range(len(specs)), len(specs))
    names = [f"w{number:04}/{'abcdefgh'[place]}:1" for place in order]
    steps: list[dict[str, Spec]] = [{} for _ in range(STEPS)]
    together = random.randrange(STEPS)
    for name, spec in zip(names, specs, strict=True):
        step = together if random.random() < 0.5 else random.randrange(STEPS)
        steps[step][name] = spec
    if odd[0].refused and random.random() < 0.3:
        _turn(steps, names[random.randrange(2)], odd[0], random)
    shuffled = tuple(
        dict(random.sample(sorted(step.items(), key=_first), len(step))) for step in steps
    )
    upside_down = honest("", *making.victim.blobs[1::-1], making.blob(), author=making.text())
    return World(number, kind, shuffled, random.choice([making.image(), upside_down]))


def _first(item: tuple[str, Spec]) -> str:
    return item[0]


def _turn(steps: list[dict[str, Spec]], name: str, lie: Spec, random: Random) -> None:
    """Have an honest image's tag move to a lie, and perhaps back."""
    came = next(number for number, step in enumerate(steps) if name in step)
    good = steps[came][name]
    if came + 1 < STEPS:
        steps[came + 1][name] = lie
    if came + 2 < STEPS and random.random() < 0.5:
        steps[came + 2][name] = good
