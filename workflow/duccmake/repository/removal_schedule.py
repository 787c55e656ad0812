"""``remove-schedule.json``: what lost its name, and when, as DUCC lists it.

DUCC has a list of manifests.  Each of them here has one member more, ``duccmake``,
which DUCC passes over: since when nothing shows the image, by which name it went,
and why.  What never was an image (a layer that nothing uses) stands there as a
manifest of that alone.
"""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from . import ducc, json_files

log = logging.getLogger(__name__)

_MEMBER = "duccmake"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: the manifest's members, and what duccmake adds.

    ``since`` is in seconds since the epoch, 0 where nobody noted it (DUCC does not).
    ``text`` and ``record`` are the manifest and the record as they were published,
    by which the image can be published again; empty where that cannot be.
    """

    manifest: dict[str, Any]
    since: float = 0.0
    image: str = ""
    why: str = ""
    text: str = ""
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> str:
        """The digest of the configuration, which names the flat tree; empty without one."""
        return _digest(self.manifest.get("config"))

    @property
    def layers(self) -> tuple[str, ...]:
        """The digests of the layers."""
        return self._digests("layers")

    @property
    def chains(self) -> tuple[str, ...]:
        """The chains that DUCC left; a manifest has none."""
        return self._digests("chains")

    @property
    def key(self) -> tuple[str, ...]:
        """What two entries for the same content share."""
        return (self.config, *self.layers, *(f"chain {digest}" for digest in self.chains))

    def _digests(self, member: str) -> tuple[str, ...]:
        listed = self.manifest.get(member)
        found = map(_digest, listed if isinstance(listed, list) else [])
        return tuple(digest for digest in found if digest)


def parse(content: bytes) -> list[Entry]:
    """The entries of the file's content; none where there is no file."""
    listed = _load(content) if content else []
    listed = listed if isinstance(listed, list) else []
    return [_entry(members) for members in listed if isinstance(members, dict)]


def dump(entries: Iterable[Entry]) -> bytes:
    """The file's content, each content once, with the latest time."""
    latest: dict[tuple[str, ...], Entry] = {}
    for entry in entries:
        known = latest.get(entry.key)
        if known is None or entry.since > known.since:
            latest[entry.key] = entry
    return json_files.dump([_members(entry) for entry in latest.values()])


def entered(
    manifest: bytes, image: str, why: str, now: float, *, record: bytes = b""
) -> list[Entry]:
    """The entry for an image that loses its name; none where its manifest is damaged."""
    members = ducc.folded(_load(manifest)) if manifest else None
    known = _load(record) if record else None
    entry = Entry(
        members if isinstance(members, dict) else {},
        now,
        image,
        why,
        manifest.decode(errors="replace") if isinstance(known, dict) else "",
        known if isinstance(known, dict) else {},
    )
    return [entry] if entry.config or entry.layers else []


def without(entries: Iterable[Entry], configs: Collection[str]) -> list[Entry]:
    """The entries but those whose configuration is published, under whatever name."""
    return [entry for entry in entries if entry.config not in configs]


def timestamp(seconds: float) -> str:
    """A time as it stands in the repository (RFC 3339, UTC)."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: object) -> float:
    """The time that `timestamp` wrote; 0 for anything else."""
    try:
        return datetime.datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0


def _entry(members: dict[str, Any]) -> Entry:
    manifest = ducc.folded({name: value for name, value in members.items() if name != _MEMBER})
    added = members.get(_MEMBER)
    if not isinstance(added, dict):
        return Entry(manifest)
    return Entry(
        manifest,
        seconds(added.get("since")),
        str(added.get("image") or ""),
        str(added.get("why") or ""),
        str(added.get("manifest") or ""),
        record if isinstance(record := added.get("record"), dict) else {},
    )


def _members(entry: Entry) -> dict[str, Any]:
    if not entry.since:
        return entry.manifest
    added: dict[str, Any] = {"since": timestamp(entry.since), "image": entry.image}
    added["why"] = entry.why
    if entry.record:
        added |= {"manifest": entry.text, "record": entry.record}
    return {**entry.manifest, _MEMBER: added}


def _digest(descriptor: object) -> str:
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    return digest if isinstance(digest, str) else ""


def _load(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        log.warning("a manifest, or the list of those to be removed, is no JSON: passed over")
        return None
