"""What ``snakemake verify`` looks at, in parts, and what was found, as files.

A part is a job's share of a repository's trees and images, and goes by what is in it: an
interrupted verification goes on with the parts that are not done.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..config.settings import Selection
from ..fs.files import remove_tree, write_atomically
from ..oci.globs import any_of
from ..repository.damage import Damage, Kind, Thing
from ..repository.protocol import Repository
from ..repository.verification import things_of
from ..words import counted
from ..workspace.results import SEED, verified
from ..workspace.results import verdict as verdict_file

FORMAT = 1
"""Version of what is written."""

KEPT = 50
"""So many damages of one thing are kept; more are counted."""

_TOLD = 10
"""So many damages of one thing are told of in a run."""

_TOGETHER = 8
"""So many things, about, are a job's."""

_MOST_PARTS = 512

_TREES = (Kind.FLAT, Kind.LAYER)

Users = Mapping[str, str]
"""The images that have a thing, with the manifests that they were published from."""


@dataclass(frozen=True, slots=True)
class Found:
    """A damaged thing, and who has it; of its ``count`` damages some are kept."""

    thing: Thing
    users: Users
    damage: tuple[Damage, ...]
    count: int

    @classmethod
    def of(cls, thing: Thing, users: Users, damage: Iterable[Damage]) -> Found | None:
        """What was found of a thing; None where nothing was."""
        kept: list[Damage] = []
        count = 0
        for count, one in enumerate(damage, start=1):
            if count <= KEPT:
                kept.append(one)
        return cls(thing, users, tuple(kept), count) if count else None

    @property
    def title(self) -> str:
        """The image for people, of several the first."""
        names = sorted(self.users) or [self.thing.key]
        return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"

    def told(self) -> Iterator[tuple[str, str]]:
        """Where it is damaged and how, for people: some of it, and how much more there is."""
        yield from ((one.path, one.words) for one in self.damage[:_TOLD])
        if (more := self.count - _TOLD) > 0:
            yield str(self.thing), f"{counted(more, 'damage')} more"

    def to_json(self) -> dict[str, Any]:
        """The members of a file."""
        return {
            "kind": self.thing.kind,
            "key": self.thing.key,
            "images": dict(self.users),
            "damage": [{"path": one.path, "found": one.words} for one in self.damage],
            "count": self.count,
        }

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> Found:
        """Read back what `to_json` gave."""
        damage = tuple(Damage(one["path"], one["found"]) for one in members["damage"])
        thing = Thing(Kind(members["kind"]), members["key"])
        return cls(thing, dict(members["images"]), damage, int(members["count"]))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known to be damaged in a repository; ``made`` is in seconds since the epoch.

    ``verified`` counts by kind what was looked at last, with or without its ``content``;
    where that was a ``sample``, it was drawn by ``seed``.
    """

    repository: str
    made: float = 0.0
    content: bool = False
    sample: float = 1
    seed: int = 0
    verified: Mapping[str, int] = field(default_factory=dict)
    found: tuple[Found, ...] = ()

    @classmethod
    def load(cls, repository: str) -> Verdict | None:
        """What was written last; None where nothing was, or it cannot be read."""
        try:
            members = json.loads(verdict_file(repository).read_bytes())
            if members.pop("format") != FORMAT:
                return None
            found = tuple(map(Found.from_json, members.pop("found")))
            return cls(**members, found=found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def save(self) -> None:
        """Write it."""
        names = [name for name in self.__slots__ if name != "found"]
        members = {
            "format": FORMAT,
            **{name: getattr(self, name) for name in names},
            "found": [one.to_json() for one in self.found],
        }
        content = json.dumps(members, indent=1).encode() + b"\n"
        write_atomically(verdict_file(self.repository), content)

    def after(
        self, looked_at: Collection[Thing], found: Iterable[Found], there: Collection[Thing]
    ) -> Verdict:
        """With what was ``found`` now; of the rest, what is not ``there`` any more is forgotten."""
        kept = [one for one in self.found if one.thing not in looked_at and one.thing in there]
        return replace(self, found=tuple(sorted([*kept, *found], key=lambda one: one.thing)))

    @property
    def looked_at(self) -> str:
        """What was verified last, in words."""
        how = ["their content read"] if self.content else []
        how += [f"of the trees a share of {self.sample:g}, seed={self.seed}"] if self.seed else []
        return "; ".join([f"{in_words(self.verified)} verified", *how])

    def damage_of(self, name: str, manifest: str) -> str:
        """What is damaged of an image as it was published from a manifest, in words, or empty."""
        own = [one for one in self.found if one.users.get(name) in (manifest, "")]
        if not own:
            return ""
        more = f" (and {sum(one.count for one in own) - 1} more)" if own[1:] else ""
        return f"{own[0].damage[0]}{more}"


@dataclass(frozen=True, slots=True)
class Part:
    """What one job looks at."""

    repository: str
    content: bool
    things: Mapping[Thing, Users]

    @property
    def key(self) -> str:
        """What it goes by."""
        return hashlib.sha256(self._to_json()).hexdigest()[:12]

    @property
    def output(self) -> Path:
        """What the job writes."""
        return verified(self.repository, self.key)

    def save(self) -> None:
        """Write it for its job."""
        write_atomically(self.output.with_suffix(".part"), self._to_json())

    @classmethod
    def load(cls, output: Path) -> Part:
        """Read what `save` wrote."""
        members = json.loads(output.with_suffix(".part").read_bytes())
        things = {Thing(Kind(kind), key): users for kind, key, users in members["things"]}
        return cls(members["repository"], members["content"], things)

    def _to_json(self) -> bytes:
        things = sorted(self.things.items())
        members = {
            "repository": self.repository,
            "content": self.content,
            "things": [[thing.kind, thing.key, dict(sorted(of.items()))] for thing, of in things],
        }
        return json.dumps(members).encode()


def asked_for(globs: Iterable[str]) -> Callable[[str], bool]:
    """Whether somebody asks for an image of that public name; for all without any glob."""
    pattern = any_of(*globs) if globs else any_of("*")
    return lambda name: pattern.fullmatch(name) is not None


def parts_of(repository: Repository, selection: Selection, seed: int) -> list[Part]:
    """What is to be looked at, in parts that stay the same while what is in them does."""
    with repository.reading():
        things: dict[Thing, Users] = dict(things_of(repository, asked_for(selection.images)))
    if selection.sample < 1:
        things = _sampled(things, selection.sample, seed)
    if not selection.images:
        things[Thing(Kind.REPOSITORY, repository.name)] = {}
    number = 1
    while number * _TOGETHER < len(things) and number < _MOST_PARTS:
        number *= 2
    shares: dict[int, dict[Thing, Users]] = {}
    for thing, users in things.items():
        share = int(hashlib.sha256(str(thing).encode()).hexdigest()[:8], 16) % number
        shares.setdefault(share, {})[thing] = users
    return [Part(repository.name, selection.content, shares[share]) for share in sorted(shares)]


def _sampled(things: Mapping[Thing, Users], share: float, seed: int) -> dict[Thing, Users]:
    """All images, and a share of the trees, one at least."""
    trees = sorted(thing for thing in things if thing.kind in _TREES)
    drawn = random.Random(seed).sample(trees, max(1, round(len(trees) * share)) if trees else 0)
    chosen = {*drawn, *(thing for thing in things if thing.kind not in _TREES)}
    return {thing: users for thing, users in things.items() if thing in chosen}


def draw(selection: Selection, *, keep: bool) -> int:
    """What a sample is drawn by: what is asked for, or by what one was that did not end.

    With ``keep`` it is kept until `forget`.
    """
    if selection.seed or selection.sample == 1:
        return selection.seed
    try:
        return int(SEED.read_text())
    except (OSError, ValueError):
        seed = random.SystemRandom().randrange(1, 2**31)
    if keep:
        write_atomically(SEED, f"{seed}\n".encode())
    return seed


def forget(repositories: Iterable[str]) -> None:
    """Have the next verification look at all of it anew."""
    SEED.unlink(missing_ok=True)
    for name in repositories:
        remove_tree(verified(name, "any").parent)


def everything(repository: Repository) -> dict[Thing, Users]:
    """All that there is to verify in a repository."""
    with repository.reading():
        things: dict[Thing, Users] = dict(things_of(repository, lambda name: True))
    return {**things, Thing(Kind.REPOSITORY, repository.name): {}}


def in_words(counts: Mapping[str, int]) -> str:
    """What is looked at, for people."""
    found = Counter(counts)
    kinds = (Kind.IMAGE, Kind.FLAT, Kind.LAYER)
    first, second, third = (counted(found[kind], kind) for kind in kinds)
    return f"{first}, {second} and {third}"
