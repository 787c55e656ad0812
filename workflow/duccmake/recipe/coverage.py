"""Which wish an image is covered by: asked of notices, and of images that globs brought."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..oci.globs import matches
from ..oci.reference import Reference
from .model import Recipe, Wish


class Coverage:
    """The wishes of some recipes, to be asked which of them cover an image."""

    def __init__(self, recipes: Iterable[Recipe]) -> None:
        self._wishes: dict[tuple[str, str], list[Wish]] = {}
        for recipe in recipes:
            for wish in recipe.wishes:
                reference = wish.reference
                self._wishes.setdefault((reference.host, reference.repository), []).append(wish)

    def wishes_in(self, host: str, repository: str) -> list[Wish]:
        """All wishes in a repository of the registry that answers at ``host``."""
        return self._wishes.get((host, repository), [])

    def wish(self, reference: Reference) -> Wish | None:
        """The first wish that covers an image, by itself or by a glob and its rules."""
        for wish in self.wishes_in(reference.host, reference.repository):
            if admits(wish, reference):
                return wish
        return None

    def below(self, path: str, hosts: Collection[str] = ()) -> list[Wish]:
        """All wishes in repositories called ``path`` or below it, in any registry or in some."""
        return [
            wish
            for (host, repository), wishes in self._wishes.items()
            if not hosts or host in hosts
            for wish in wishes
            if repository == path or repository.startswith(f"{path}/")
        ]


def admits(wish: Wish, image: Reference) -> bool:
    """Whether a wish covers an image, and its rules for tags let that pass."""
    rules = wish.wished.tags
    return covers(wish.reference, image) and (rules is None or rules.admits(image.tag))


class Chosen:
    """Some images, among all that are wished for; none named means all of them."""

    def __init__(self, references: Iterable[Reference] = ()) -> None:
        self._references: dict[tuple[str, str], list[Reference]] = {}
        for reference in references:
            self._references.setdefault((reference.host, reference.repository), []).append(
                reference
            )

    def __contains__(self, reference: Reference) -> bool:
        """Whether an image, or any that a glob may stand for, is among them."""
        if not self._references:
            return True
        named = self._references.get((reference.host, reference.repository), ())
        return any(covers(name, reference) or covers(reference, name) for name in named)


def covers(wished: Reference, image: Reference) -> bool:
    """Whether a wish is for an image: the same repository, and its tag, digest or glob."""
    if (wished.host, wished.repository) != (image.host, image.repository):
        return False
    if wished.is_glob:
        return bool(image.tag) and (image.is_glob or matches(wished.tag, image.tag))
    return (wished.tag, wished.digest) == (image.tag, image.digest)
