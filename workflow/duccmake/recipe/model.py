"""Wish lists as values: what one repository shall hold, and what is wrong in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import filterfalse
from pathlib import Path

from ..errors import RecipeError
from ..oci.globs import any_of
from ..oci.reference import DOCKER_HUB, Reference
from ..oci.tags import TagRules
from .entry import NOTHING_SPECIAL, Wished
from .faults import Fault, FaultKind

DEFAULT_OUTPUT_FORMAT = "$(scheme)://$(registry)/$(repository)_thin:$(tag)"


@dataclass(frozen=True, slots=True)
class Wish:
    """An entry of a recipe: an image, or with a tag glob several, and where it stands.

    ``ignore_errors`` says that its failure does not fail the run.
    """

    reference: Reference
    line: int
    ignore_errors: bool = False
    path: Path = Path()
    wished: Wished = NOTHING_SPECIAL

    @property
    def place(self) -> str:
        """``FILE:LINE``."""
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class BadEntry:
    """An entry that is no image: what stands there, why it is wrong, and a hint."""

    text: str
    line: int
    reason: str
    hint: str
    path: Path = Path()

    def __str__(self) -> str:
        return str(self.error())

    def error(self) -> RecipeError:
        """The same as an error, for whoever lets the entry fail."""
        return RecipeError(f"{self.path}:{self.line}: {self.reason}", hint=self.hint)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one repository shall hold.

    ``path`` is the file, or the first of several that name the same repository.
    ``remarks`` are what looks wrong and may pass; ``ignored`` are the globs of ``ignoreErrors``.
    ``stale`` says why this may not be all that is wished for now: a wish list could not
    be read, and an older version, or nothing, is in its place.  An image that is missing
    here is then none that may be removed.
    """

    path: Path
    repository: str
    user: str = ""
    output_format: str = DEFAULT_OUTPUT_FORMAT
    wishes: tuple[Wish, ...] = ()
    bad_entries: tuple[BadEntry, ...] = ()
    remarks: tuple[Fault, ...] = ()
    ignored: tuple[str, ...] = ()
    stale: str = ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """The remarks, as lines for people."""
        return tuple(map(str, self.remarks))

    def ignores(self, reference: Reference) -> bool:
        """Whether a failure of ``reference`` does not fail the run.

        A glob of ``ignoreErrors`` covers the image's name, with or without its
        scheme.  Without a tag it means all tags, without a registry all registries.
        """
        return any(
            any_of(*self.ignored).fullmatch(f"{reference.registry}/{image}")
            or any_of(*self.ignored).fullmatch(f"{reference.scheme}://{reference.registry}/{image}")
            or any_of(*filterfalse(_NAMES_REGISTRY.match, self.ignored)).fullmatch(image)
            for image in _spellings(reference)
        )


def join(recipes: Iterable[Recipe]) -> list[Recipe]:
    """One `Recipe` for each repository that these name.

    Those of the same repository are joined: wishes, bad entries and the globs of
    ``ignoreErrors``, which then hold for the wishes of all of them.  They must agree on
    ``user`` and ``output_format``; `RecipeError` where they do not.
    """
    by_repository: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        by_repository.setdefault(recipe.repository, []).append(recipe)
    return [_joined(same) for same in by_repository.values()]


def output_reference(format: str, reference: Reference) -> str:
    """The thin image's name: ``format`` with its variables filled in, as DUCC does it.

    ``$(reference)`` is ``:tag``, ``@digest`` or both; ``$(image)`` is the
    repository and that.  What an image does not have is empty; an unknown
    variable stays as it is.
    """
    values = variables(reference)
    return VARIABLE.sub(lambda match: values.get(match[1], match[0]), format)


VARIABLE = re.compile(r"\$\(([^()]*)\)")


def variables(reference: Reference) -> dict[str, str]:
    """What ``output_format`` may name of an image, with its values."""
    return {
        "scheme": reference.scheme,
        "registry": reference.registry,
        "repository": reference.repository,
        "tag": reference.tag,
        "digest": str(reference.digest or ""),
        "reference": reference.suffix,
        "image": reference.repository + reference.suffix,
    }


def with_wishes(recipe: Recipe, wishes: Iterable[Wish]) -> Recipe:
    """The recipe with each wish once; what occurs again becomes a remark."""
    kept: dict[tuple[str, TagRules | None], Wish] = {}
    images: dict[tuple[object, ...], Wish] = {}
    remarks = list(recipe.remarks)
    bad = list(recipe.bad_entries)
    for wish in wishes:
        reference = wish.reference
        # The name is the path in the repository, and there can be only one.
        first = kept.setdefault((reference.name, wish.wished.tags), wish)
        if first is not wish and reference.is_local and reference != first.reference:
            bad.append(_same_name(wish, first))
            continue
        if first is not wish:
            scheme = "" if first.reference == reference else " but for the scheme"
            found = f"{str(reference)!r} is a duplicate{scheme}: it stands at {first.place} already"
            remarks.append(_again(wish, FaultKind.DUPLICATE, found, "remove one of the two"))
            continue
        image = (
            reference.host,
            reference.repository,
            reference.tag,
            reference.digest,
            wish.wished.tags,
        )
        other = images.setdefault(image, wish)
        if other is not wish:
            found = (
                f"{reference.name!r} is the same image as {other.reference.name!r} at "
                f"{other.place}, by another name of the registry"
            )
            hint = "both are kept, as they are two paths in the repository"
            remarks.append(_again(wish, FaultKind.OTHER_SPELLING, found, hint))
    checked = (
        replace(wish, ignore_errors=recipe.ignores(wish.reference)) for wish in kept.values()
    )
    return replace(recipe, wishes=tuple(checked), remarks=tuple(remarks), bad_entries=tuple(bad))


def _again(wish: Wish, kind: FaultKind, found: str, hint: str) -> Fault:
    return Fault(kind, wish.path, wish.line, wish.reference.name, found, hint)


def _same_name(wish: Wish, first: Wish) -> BadEntry:
    """Two paths that differ and yet are published as one: ``oci:a:1`` and ``oci:/a:1``."""
    return BadEntry(
        str(wish.reference),
        wish.line,
        f"{str(wish.reference)!r} would be published as {wish.reference.name!r}, as "
        f"{str(first.reference)!r} at {first.place} is",
        "give one of them another path or tag",
        wish.path,
    )


def _joined(recipes: Sequence[Recipe]) -> Recipe:
    first, *others = recipes
    for other in others:
        for key in ("user", "output_format"):
            if getattr(first, key) != getattr(other, key):
                raise RecipeError(
                    f"{other.path}: {key!r} is {getattr(other, key)!r}, but {first.path}, for the "
                    f"same repository {first.repository}, has {getattr(first, key)!r}",
                    hint="write the same in both",
                )
    if not others:
        return first
    joined = replace(
        first,
        bad_entries=tuple(bad for recipe in recipes for bad in recipe.bad_entries),
        remarks=tuple(remark for recipe in recipes for remark in recipe.remarks),
        ignored=tuple(dict.fromkeys(glob for recipe in recipes for glob in recipe.ignored)),
        stale="; ".join(dict.fromkeys(recipe.stale for recipe in recipes if recipe.stale)),
    )
    return with_wishes(joined, (wish for recipe in recipes for wish in recipe.wishes))


_NAMES_REGISTRY = re.compile(r"[^/]*[.:][^/]*/|localhost/")


def _spellings(reference: Reference) -> Iterator[str]:
    """The image without its registry, as a wish list may call it: with its tag and without."""
    image = reference.name.removeprefix(f"{reference.registry}/")
    yield from (image, reference.repository)
    if reference.host == DOCKER_HUB and image.startswith("library/"):
        yield image.removeprefix("library/")
        yield reference.repository.removeprefix("library/")
