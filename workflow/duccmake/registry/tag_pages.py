"""Lists of tags, page by page (distribution-spec, "Listing Tags").

Registries end a page each in their own way: a ``Link`` may name a host, a scheme or a
path that only the registry itself knows, and may be missing where there is more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, urlsplit

from ..errors import (
    ManifestError,
    NotFound,
    RateLimited,
    RegistryError,
    RegistryUnavailable,
    Unauthorized,
)
from ..oci.reference import is_tag
from .http.transport import Reply

MAX_TAGS = 1_000_000
MAX_PAGES = 2_000
MAX_EMPTY_PAGES = 100
"""So many pages in a row may list nothing: some registries sort out what a page had."""

_MANY, _FEW = 1000, 100
"""Tags on a page: many, and so few that every registry should have them."""

_OTHER = (Unauthorized, RateLimited, RegistryUnavailable)
"""Errors that have nothing to do with how a page was asked for."""

_LINK = re.compile(r"<([^>]*)>([^<]*)")
_RELATION = re.compile(r"""\brel\s*=\s*["']?([^"';,]*)""", re.IGNORECASE)


class IncompleteList(RegistryError):
    """There may be more tags than ``tags``, and the registry does not lead to them."""

    def __init__(self, found: str, tags: list[str], *, hint: str = "") -> None:
        super().__init__(found, hint=hint)
        self.tags = tags


@dataclass(frozen=True, slots=True)
class Page:
    """What a page lists, in its order, and the address that its ``Link`` leads to, or "".

    ``is_full``: it has as many as were asked for.
    """

    names: tuple[str, ...]
    link: str = ""
    is_full: bool = False


def parse_page(reply: Reply) -> Page:
    """Read a page; no list, or null in its place or in it, stands for nothing."""
    try:
        members = json.loads(reply.body)
        names = members["tags"] if "tags" in members or "name" not in members else None
    except (ValueError, LookupError, TypeError, RecursionError):
        names = ""
    listed = [] if names is None else names
    if not isinstance(listed, list) or not all(isinstance(name, str | None) for name in listed):
        raise ManifestError(
            "the registry's list of tags cannot be read",
            hint="see whether a proxy or a login page answers instead of the registry",
        )
    asked = parse_qs(urlsplit(reply.url).query).get("n")
    return Page(
        tuple(filter(None, listed)),
        _next(reply.headers.get("Link", "")),
        asked == [str(len(listed))],
    )


def _next(header: str) -> str:
    """Where a Link header (RFC 8288) leads; without a relation the next page is meant."""
    links = _LINK.findall(header)
    if not links:
        return header.partition(";")[0].strip()
    for target, parameters in links:
        relation = _RELATION.search(parameters)
        if not relation or "next" in relation[1].lower().split():
            return str(target).strip()
    return ""


def list_tags(url: str, ask: Callable[[str], Page]) -> list[str]:
    """All tags of the repository whose list is at ``url``, with ``ask`` to get a page.

    Every page is asked for where the first one was: a ``Link`` has a say in the query
    alone.  Where it leads nowhere, or there never was one, the list goes on after the
    ``last`` tag.  Raises `IncompleteList`, and `RegistryError` for a list without end.
    """
    return _Walk(url, ask).walk()


class _Walk:
    """A list of tags, as far as it was read."""

    def __init__(self, url: str, ask: Callable[[str], Page]) -> None:
        self._url = url
        self._ask = ask
        self._asked = {""}
        self._names: dict[str, None] = {}
        self._has_links = False

    def walk(self) -> list[str]:
        page: Page | None = self._first()
        empty = 0
        for _ in range(MAX_PAGES):
            if page is None:
                return self._tags()
            gained = self._is_new(page)
            self._names.update(dict.fromkeys(page.names))
            empty = 0 if page.names else empty + 1
            if len(self._names) > MAX_TAGS or empty > MAX_EMPTY_PAGES:
                break
            page = self._linked(page, gained) or self._after(page)
        raise _endless()

    def _first(self) -> Page:
        """Without a number of tags, as common clients ask; with one where that is wanted."""
        try:
            return self._page(self._url)
        except (NotFound, *_OTHER):
            raise
        except RegistryError:
            return self._page(f"{self._url}?n={_FEW}")

    def _page(self, url: str) -> Page:
        self._asked.add(url)
        page = self._ask(url)
        self._has_links |= bool(page.link)
        return page

    def _linked(self, page: Page, gained: bool) -> Page | None:
        """The page that the Link leads to, if that is a new one and the registry has it."""
        if not self._leads_on(page) or (page.names and not gained):
            return None
        try:
            return self._page(self._address(page.link))
        except _OTHER:
            raise
        except RegistryError:
            return None

    def _leads_on(self, page: Page) -> bool:
        return self._address(page.link) not in self._asked

    def _address(self, link: str) -> str:
        """A Link's address at this registry: hosts and paths in it may be inner ones."""
        try:
            parts = urlsplit(link)
        except ValueError:
            return ""
        if parts.query:
            return f"{self._url}?{parts.query}"
        root, _, _ = self._url.partition("/v2/")
        return f"{root}{parts.path}" if parts.path.startswith("/v2/") else ""

    def _after(self, page: Page) -> Page | None:
        """The page after the last tag of this one; None where the list is at its end."""
        following = None
        if page.names and (page.link or page.is_full or not self._has_links):
            following = self._page_after(page.names[-1])
        if following and self._is_new(following):
            return following
        if following and not following.names:
            return following if self._leads_on(following) else None
        if page.link:
            raise _endless()
        shown = following or page
        if shown.is_full and len(shown.names) == len(self._names):
            raise IncompleteList(
                f"the registry lists {len(self._names)} tags, as many as it was asked for, "
                "and leads to no others",
                self._tags(),
                hint="name those that are wished for and missing",
            )
        return None

    def _page_after(self, name: str) -> Page | None:
        """What is listed after a tag; None where the registry cannot be asked so."""
        last = f"last={quote(name, safe='')}"
        for query in (f"n={_MANY}&{last}", f"n={_FEW}&{last}", last):
            try:
                return self._page(f"{self._url}?{query}")
            except _OTHER:
                raise
            except RegistryError:
                continue
        return None

    def _is_new(self, page: Page) -> bool:
        return any(name not in self._names for name in page.names)

    def _tags(self) -> list[str]:
        return [name for name in self._names if is_tag(name)]


def _endless() -> RegistryError:
    return RegistryError(
        "the registry lists its tags without end",
        hint="what is known of them stays in force; ask the registry's operator",
    )
