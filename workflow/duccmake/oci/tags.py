"""Which of a repository's tags are wished for: globs, and how many of the newest."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .globs import matching

_ATTACHED = re.compile(r"(sha256-[0-9a-f]{64}|sha512-[0-9a-f]{128})(\.[a-z]+)?")
"""Tags of what is attached to images where a registry lists no referrers (distribution-spec,
"Referrers Tag Schema"), and of cosign's signatures: no images."""

_PART = re.compile(r"\d+|[a-z]+")
_BEFORE_RELEASE = ("nightly", "snapshot", "dev", "alpha", "a", "beta", "b", "pre", "preview", "rc")
"""What marks a version that comes before the one it names."""


@dataclass(frozen=True, slots=True)
class TagRules:
    """Tags that a glob of ``include`` matches and none of ``exclude``.

    With ``keep_last`` only so many of them, the newest by `version_order`; 0 is all.
    Tags of what is attached to images, such as signatures, are passed over.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    keep_last: int = 0

    def admits(self, tag: str) -> bool:
        """Whether a tag is wished for, if it is among the newest."""
        return bool(replace(self, keep_last=0).choose([tag]))

    def choose(self, tags: Iterable[str]) -> list[str]:
        """The tags that are wished for, in the order in which they came."""
        listed = [tag for tag in dict.fromkeys(tags) if not _ATTACHED.fullmatch(tag)]
        wished = {tag for glob in self.include for tag in matching(glob, listed)}
        wished -= {tag for glob in self.exclude for tag in matching(glob, listed)}
        if self.keep_last:
            wished = set(sorted(wished, key=version_order)[-self.keep_last :])
        return [tag for tag in listed if tag in wished]


def version_order(tag: str) -> tuple[object, ...]:
    """A key that sorts tags from old to new.

    Numbers count as numbers, so 1.10 is newer than 1.9, and 1.9.1 than 1.9.  A
    ``v`` before the first number means nothing.  ``1.0-rc1`` and the like come
    before ``1.0``, any other word after it.  Tags without a number are oldest.
    """
    text = tag.lower()
    parts = _PART.findall(text)
    if len(parts) > 1 and parts[0] == "v" and parts[1].isdigit():
        del parts[0]
    keys = tuple(_part_order(part) for part in parts)
    # Where another version goes on, this one ends: after its pre-releases, before all else.
    return (any(part.isdigit() for part in parts), (*keys, _END), text)


_END = (1, 0, "")


def _part_order(part: str) -> tuple[int, int, str]:
    if part.isdigit():
        return (3, int(part), "")
    if part in _BEFORE_RELEASE:
        return (0, _BEFORE_RELEASE.index(part), "")
    return (2, 0, part)
