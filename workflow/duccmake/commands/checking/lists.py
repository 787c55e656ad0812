"""The wish lists that are checked: read from wherever they are, and looked at by themselves."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ...recipe.coverage import admits
from ...recipe.document import read, read_from
from ...recipe.faults import InvalidRecipe
from ...recipe.model import Recipe, Wish
from ...recipe.parser import parse
from ...recipe.sources import git, web
from ...recipe.sources.listing import parse_list
from ...recipe.sources.location import Source
from .findings import Finding, Rule, of_fault

STANDARD_INPUT = "-"

_UNNAMED = "unnamed.list"
"""What a plain list is for that nobody named a repository for."""


@dataclass(frozen=True, slots=True)
class Document:
    """The text of a wish list; ``path`` is what messages and reports call it."""

    path: Path
    raw: bytes
    is_plain: bool


@dataclass(frozen=True, slots=True)
class WishList:
    """A wish list that was read: its recipe, as far as it is one, and what is wrong in it."""

    path: Path
    recipe: Recipe
    findings: tuple[Finding, ...]

    @property
    def repository(self) -> str:
        """The repository that it is for, or "" where it names none."""
        return "" if self.recipe.repository == _UNNAMED else self.recipe.repository


def fetch(place: str, *, called: str = "", plain: bool = False) -> Document:
    """The wish list at a path, an address or in a git repository, or on standard input.

    ``called`` is what it is called in place of that; ``plain``: it is a list of images, as
    names that end in ``.txt`` are.  Raises `ConfigError` and `RecipeError`.
    """
    if place == STANDARD_INPUT:
        path = Path("stdin")
        raw = read_from(sys.stdin.buffer, path)
    else:
        path, raw = _fetched(Source.parse({"source": place, "cvmfs_repo": _UNNAMED}, Path()))
    path = Path(called) if called else path
    return Document(path, raw, plain or path.suffix == ".txt")


def _fetched(source: Source) -> tuple[Path, bytes]:
    if source.kind == "web":
        parts = urlsplit(source.url)
        name = PurePosixPath(parts.path).name or parts.hostname or ""
        return Path(name), web.fetch(source).content or b""
    if source.kind == "git":
        with tempfile.TemporaryDirectory(prefix="duccmake-") as clone:
            commit = git.fetch(source, Path(clone) / "git")
            return source.path, git.content(source, Path(clone) / "git", commit)
    here, path = Path.cwd(), Path(os.path.normpath(source.path.absolute()))
    return path.relative_to(here) if path.is_relative_to(here) else path, read(source.path)


def read_list(document: Document, repository: str = "") -> WishList:
    """Read a wish list, as far as it is one; ``repository`` is what it is for, whatever it says."""
    try:
        if document.is_plain:
            recipe = parse_list(document.path, document.raw, repository or _UNNAMED)
        else:
            recipe = parse(document.path, document.raw)
            recipe = replace(recipe, repository=repository) if repository else recipe
    except InvalidRecipe as error:
        nothing = Recipe(document.path, repository or _UNNAMED)
        return WishList(document.path, nothing, tuple(map(of_fault, error.faults)))
    return WishList(document.path, recipe, tuple(_findings(recipe)))


def _findings(recipe: Recipe) -> Iterator[Finding]:
    for bad in recipe.bad_entries:
        yield Finding(Rule.ENTRY, bad.path, bad.line, bad.text, bad.reason, bad.hint)
    yield from map(of_fault, recipe.remarks)
    yield from _ports(recipe.wishes)
    yield from _covered(recipe.wishes)


def _covered(wishes: Sequence[Wish]) -> Iterator[Finding]:
    """Images that a glob brings as well, with nothing else wished of them."""
    globs: dict[tuple[str, str], list[Wish]] = {}
    for wish in wishes:
        if wish.reference.is_glob:
            at = (wish.reference.host, wish.reference.repository)
            globs.setdefault(at, []).append(wish)
    for wish in wishes:
        reference = wish.reference
        for glob in globs.get((reference.host, reference.repository), ()):
            if not reference.is_glob and _is_superfluous(wish, glob):
                found = f"{reference.name!r} is what {glob.reference.name!r} at {glob.place} brings"
                yield overlap(wish, glob, found, "one of the two is enough")


def _is_superfluous(wish: Wish, glob: Wish) -> bool:
    rules = glob.wished.tags
    alike = (wish.wished.platforms, wish.wished.products) == (
        glob.wished.platforms,
        glob.wished.products,
    )
    return alike and not (rules and rules.keep_last) and admits(glob, wish.reference)


def overlap(wish: Wish, other: Wish, found: str, hint: str) -> Finding:
    """A finding about two entries that bring the same."""
    subject = f"{wish.reference.name} {other.reference.name}"
    return Finding(Rule.OVERLAP, wish.path, wish.line, subject, found, hint, Rule.OVERLAP.level)


def _ports(wishes: Sequence[Wish]) -> Iterator[Finding]:
    """Images that stand there with the port that their scheme has anyway, and without."""
    first: dict[tuple[object, ...], Wish] = {}
    for wish in wishes:
        reference = wish.reference
        default = {"https": ":443", "http": ":80"}.get(reference.scheme, "")
        host = reference.host.removesuffix(default) if default else reference.host
        image = (host, reference.repository, reference.tag, reference.digest, wish.wished.tags)
        other = first.setdefault(image, wish)
        if other.reference.host != reference.host:
            found = (
                f"{reference.name!r} is the same image as {other.reference.name!r} at "
                f"{other.place}: that port is the usual one"
            )
            hint = "both are kept, as they are two paths in the repository"
            rule = Rule.OTHER_SPELLING
            yield Finding(rule, wish.path, wish.line, reference.name, found, hint, rule.level)
