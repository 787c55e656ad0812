"""Registries' ways to list tags: in pages, with links and without, and in none that is right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from support.faulty_registry import Answer, FaultyHandler

LAST, OPAQUE = "n={n}&last={last}", "next_page={offset}.{blank}%3D%3D&n={n}"


@dataclass(frozen=True)
class TagLists:
    """A way to list tags, and a fault for a registry that has it.

    A page has ``size`` tags, or as many as are asked for where ``counts``; never more
    than ``most``, or the status ``refuses`` is the answer.  ``link`` is the Link header
    of each page that is not the last, around the query ``cursor``; empty is none.
    ``last``: whether the parameter of that name is heard.  ``blank``: how many empty
    pages come before each that lists something.
    """

    size: int = 1000
    most: int = 1000
    refuses: int = 0
    counts: bool = True
    link: str = '</v2/{name}/tags/list?{cursor}>; rel="next"'
    cursor: str = LAST
    last: bool = True
    blank: int = 0
    others: tuple[object, ...] = ()

    def page(self, name: str, tags: Sequence[str], query: Mapping[str, str], host: str) -> Answer:
        """The page of the tags that a query asks for."""
        asked = int(query.get("n", 0))
        if self.refuses and asked > self.most:
            return Answer(self.refuses, {}, b'{"errors":[{"code":"PAGINATION_NUMBER_INVALID"}]}')
        size = min(asked if asked and self.counts else self.size, self.most)
        start, blank = self._start(tags, query)
        end = start if blank < self.blank else start + size
        headers = {"Content-Type": "application/json"}
        if self.link and (end < len(tags) or blank < self.blank):
            cursor = self.cursor.format(
                n=size,
                last=tags[end - 1] if end else "",
                offset=end,
                blank=blank + 1 if blank < self.blank else 0,
            )
            headers["Link"] = self.link.format(name=name, cursor=cursor, host=host)
        listed = {"name": name, "tags": [*self.others, *tags[start:end]]}
        return Answer(200, headers, json.dumps(listed).encode())

    def _start(self, tags: Sequence[str], query: Mapping[str, str]) -> tuple[int, int]:
        """Where a page begins, and how many empty ones there were at that place."""
        if "next_page" in query:
            offset, _, blank = query["next_page"].rstrip("=").partition(".")
            return int(offset), int(blank)
        last = query.get("last", "") if self.last else ""
        return sum(tag <= last for tag in tags), 0

    def __call__(self, handler: FaultyHandler, answer: Answer) -> None:
        name, query = asked_for(handler.path)
        handler.send(self.page(name, handler.store.tags(name), query, handler.headers["Host"]))


def asked_for(path: str) -> tuple[str, dict[str, str]]:
    """The repository whose list an address asks for, and the query."""
    parts = urlsplit(path)
    name = parts.path.partition("/v2/")[2].removesuffix("/tags/list")
    return name, {key: values[0] for key, values in parse_qs(parts.query).items()}
