"""A wish list and what registries say of its images, beside an older version of the list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...config.configuration import Config
from ...errors import (
    DigestMismatch,
    DuccmakeError,
    ManifestError,
    NoSuchPlatform,
    NotFound,
    Unauthorized,
)
from ...oci.reference import Digest, Platform, Reference
from ...planning.privacy import private_error
from ...planning.troubles import Troubles
from ...recipe.coverage import admits
from ...recipe.entry import Wished
from ...recipe.model import Recipe, Wish
from ...registry.tag_pages import IncompleteList
from ...repository.open import open_repository
from ...repository.protocol import Repository
from .answers import Answer, Registries, Tags, size_of
from .findings import Finding, Level, Rule, fingerprinted
from .lists import WishList, overlap

_Key = tuple[Reference, Wished]
"""What makes an entry the same as one of another version of the list."""

_Brought = Mapping[str, tuple[Reference, Wish]]
"""The images of a list by their names, each with the entry that brings it."""


@dataclass(frozen=True, slots=True)
class Glob:
    """An entry that stands for several images: its name, its line, and the tags it matches."""

    name: str
    line: int
    is_new: bool
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Image:
    """An image of the list as its registry has it.

    ``platform`` is "" where there is one for all; sizes are compressed bytes, and None where
    they were not asked for; ``there`` are the layers that the repository has, None where no
    repository is at hand.
    """

    name: str
    platform: str
    line: int
    digest: str
    is_new: bool
    bytes: int | None
    layers: int | None
    there: int | None


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found of a wish list.

    ``to_fetch`` is the size of all layers that are not there already, each once, as far as
    sizes were asked for.  ``leaving`` are images that only the older version brings,
    ``silent`` has a line for each registry that could not be asked.
    """

    path: Path
    repository: str
    findings: tuple[Finding, ...]
    globs: tuple[Glob, ...] = ()
    images: tuple[Image, ...] = ()
    leaving: tuple[str, ...] = ()
    to_fetch: int = 0
    silent: tuple[str, ...] = ()
    is_compared: bool = False

    def counted(self, level: Level) -> list[Finding]:
        """The findings of a level, without those that the older version has as well."""
        return [item for item in self.findings if item.level == level and not item.known]


def check(new: WishList, old: WishList | None, config: Config, *, ask: bool = True) -> Checked:
    """Look at a wish list, and unless ``ask`` is false have registries say what they know."""
    work = _Check(new, old, config)
    if ask:
        with Registries(config) as registries:
            work.ask(registries)
    return work.result()


class _Check:
    def __init__(self, new: WishList, old: WishList | None, config: Config) -> None:
        self._new, self._old, self._config = new, old, config
        self._before = {_key(wish) for wish in old.recipe.wishes} if old else set()
        self._findings: list[Finding] = []
        self._images: list[Image] = []
        self._tags: dict[_Key, Tags] = {}
        self._sizes: dict[Digest, int] = {}
        self._troubles = Troubles()

    def ask(self, registries: Registries) -> None:
        """Ask for the tags of globs, and then for all images."""
        old = self._old.recipe.wishes if self._old else ()
        globs = {
            _key(wish): wish for wish in (*self._new.recipe.wishes, *old) if wish.reference.is_glob
        }
        self._tags = dict(zip(globs, registries.tags(list(globs.values())), strict=True))
        self._note((reference, tags.error) for (reference, _), tags in self._tags.items())
        for wish in self._new.recipe.wishes:
            if tags := self._tags.get(_key(wish)):
                self._findings += self._of_glob(wish, tags)
        self._findings += self._overlaps()
        brought, before = self._brought(self._new.recipe), self._brought_before()
        wished = [(reference, self._platforms(wish)) for reference, wish in brought.values()]
        answers = registries.images(wished, lambda name: _is_same(name, brought, before))
        self._note((answer.reference, answer.error) for answer in answers)
        repository = _at_hand(self._config, self._new.repository)
        told: dict[tuple[Rule, str], Finding] = {}
        for answer in answers:
            wish = brought[answer.reference.name][1]
            for finding in self._of_answer(wish, answer):
                told.setdefault((finding.rule, finding.subject), finding)
            if not answer.error:
                is_new = not _is_same(answer.reference.name, brought, before)
                self._images.append(self._image(wish, answer, is_new, repository))
        self._findings += told.values()

    def result(self) -> Checked:
        """All that was found."""
        new, old = self._new, self._old
        findings = fingerprinted([*new.findings, *self._findings, *self._moved()])
        if old:
            known = {item.fingerprint for item in fingerprinted(old.findings)}
            findings = [
                replace(item, known=item.known or item.fingerprint in known) for item in findings
            ]
        globs = [
            Glob(wish.reference.name, wish.line, _key(wish) not in self._before, tags.chosen)
            for wish in new.recipe.wishes
            if (tags := self._tags.get(_key(wish))) and (tags.chosen or not tags.error)
        ]
        return Checked(
            new.path,
            new.repository,
            tuple(findings),
            tuple(globs),
            tuple(sorted(self._images, key=lambda image: (image.line, image.name))),
            tuple(self._leaving()),
            sum(self._sizes.values()),
            tuple(self._troubles.lines()),
            old is not None,
        )

    def _note(self, answers: Iterable[tuple[Reference, DuccmakeError | None]]) -> None:
        for reference, error in answers:
            if error:
                self._troubles.note(reference, error)

    # --- entries ----------------------------------------------------------

    def _of_glob(self, wish: Wish, tags: Tags) -> Iterator[Finding]:
        if isinstance(tags.error, IncompleteList):
            yield self._finding(Rule.UNANSWERED, wish, wish.reference, tags.error, Level.WARNING)
        elif tags.error:
            yield self._finding(_rule_of(tags.error), wish, wish.reference, tags.error)
        elif not tags.chosen:
            found = f"it matches none of the {tags.listed} tags that its registry lists"
            error = DuccmakeError(found, hint="see whether the glob is right")
            yield self._finding(Rule.NOTHING_MATCHES, wish, wish.reference, error)

    def _overlaps(self) -> Iterator[Finding]:
        """Globs that match tags which another one before them brings already."""
        first: dict[str, Wish] = {}
        for wish in self._new.recipe.wishes:
            again: dict[Wish, list[str]] = {}
            for reference in self._expanded(wish) if wish.reference.is_glob else ():
                other = first.setdefault(reference.name, wish)
                if other is not wish:
                    again.setdefault(other, []).append(reference.tag)
            for other, tags in again.items():
                found = (
                    f"{wish.reference.name!r} matches {_some(tags)} as {other.reference.name!r} "
                    f"at {other.place} does"
                )
                both = overlap(wish, other, found, "of two globs, the first one counts")
                yield replace(both, known={_key(wish), _key(other)} <= self._before)

    def _of_answer(self, wish: Wish, answer: Answer) -> Iterator[Finding]:
        if answer.error:
            rule = _rule_of(answer.error)
            # What else there is to say is not of one platform.
            is_own = rule in (Rule.PLATFORM, Rule.UNUSABLE) and len(self._platforms(wish)) > 1
            platform = f" ({answer.platform})" if is_own else ""
            yield self._finding(rule, wish, answer.reference, answer.error, platform=platform)
        elif answer.is_private:
            is_refused = self._config.private == "refuse"
            level = Level.ERROR if is_refused else Level.WARNING
            error = private_error(is_refused=is_refused)
            yield self._finding(Rule.PRIVATE, wish, answer.reference, error, level)

    def _finding(
        self,
        rule: Rule,
        wish: Wish,
        reference: Reference,
        error: DuccmakeError,
        level: Level | None = None,
        *,
        platform: str = "",
    ) -> Finding:
        ignored = self._new.recipe.ignores(reference)
        found, hint = error.found, error.hint
        if self._troubles.note(reference, error):  # it is told of once, for all images
            found, hint = self._troubles.brief(reference, error), ""
        return Finding(
            rule,
            wish.path,
            wish.line,
            f"{reference.name}{platform}",
            f"{reference.name}{platform}: {found}",
            hint,
            Level.WARNING if ignored else level or rule.level,
            _key(wish) in self._before,
        )

    def _moved(self) -> Iterator[Finding]:
        new, old = self._new.repository, self._old.repository if self._old else ""
        if new and old and new != old:
            rule, path = Rule.OTHER_REPOSITORY, self._new.path
            found = f"the list was for {old}, and is for {new} now"
            hint = f"what is in {old} is not published again by it"
            yield Finding(rule, path, 1, "cvmfs_repo", found, hint, rule.level)

    # --- images -----------------------------------------------------------

    def _platforms(self, wish: Wish) -> tuple[Platform, ...]:
        return wish.wished.platforms or self._config.platforms

    def _expanded(self, wish: Wish) -> Sequence[Reference]:
        if not wish.reference.is_glob:
            return (wish.reference,)
        tags = self._tags.get(_key(wish), Tags())
        return [wish.reference.with_tag(tag) for tag in tags.chosen]

    def _brought(self, recipe: Recipe) -> _Brought:
        """What an entry names itself counts more than what a glob of another finds."""
        found: dict[str, tuple[Reference, Wish]] = {}
        for wish in sorted(recipe.wishes, key=lambda wish: wish.reference.is_glob):
            for reference in self._expanded(wish):
                found.setdefault(reference.name, (reference, wish))
        return found

    def _brought_before(self) -> _Brought:
        return self._brought(self._old.recipe) if self._old else {}

    def _image(
        self, wish: Wish, answer: Answer, is_new: bool, repository: Repository | None
    ) -> Image:
        sizes = size_of(answer.layers or ())
        there = {digest for digest in sizes if repository and repository.has_layer(digest)}
        self._sizes |= {digest: size for digest, size in sizes.items() if digest not in there}
        known = answer.layers is not None
        return Image(
            answer.reference.name,
            str(answer.platform) if known and len(self._platforms(wish)) > 1 else "",
            wish.line,
            str(answer.digest),
            is_new,
            answer.bytes,
            len(sizes) if known else None,
            len(there) if known and repository else None,
        )

    def _leaving(self) -> Iterator[str]:
        """Images, or platforms of them, that the older version brings and this one does not."""
        if not self._old:
            return
        brought = self._brought(self._new.recipe)
        unsure = [
            wish
            for wish in self._new.recipe.wishes
            if wish.reference.is_glob and self._tags.get(_key(wish), Tags(error=_UNASKED)).error
        ]
        for name, (reference, wish) in self._brought_before().items():
            if name not in brought:
                if not any(admits(other, reference) for other in unsure):
                    yield name
                continue
            stay = self._platforms(brought[name][1])
            yield from (f"{name} ({one})" for one in self._platforms(wish) if one not in stay)
        now = set(map(_key, self._new.recipe.wishes))
        for wish in self._old.recipe.wishes:
            tags = self._tags.get(_key(wish), Tags(error=_UNASKED))
            if wish.reference.is_glob and tags.error and _key(wish) not in now:
                yield wish.reference.name


_UNASKED = DuccmakeError("nobody was asked")


def _key(wish: Wish) -> _Key:
    return wish.reference, wish.wished


def _is_same(name: str, brought: _Brought, before: _Brought) -> bool:
    """Whether an image is wished for as it was before."""
    return name in before and before[name][1].wished == brought[name][1].wished


def _rule_of(error: DuccmakeError) -> Rule:
    if isinstance(error, NotFound):
        return Rule.MISSING
    if isinstance(error, Unauthorized):
        return Rule.PRIVATE
    if isinstance(error, NoSuchPlatform):
        return Rule.PLATFORM
    is_content = isinstance(error, ManifestError | DigestMismatch)
    return Rule.UNUSABLE if is_content else Rule.UNANSWERED


def _some(tags: Sequence[str]) -> str:
    shown = ", ".join(tags[:3])
    return shown if len(tags) <= 3 else f"{shown} and {len(tags) - 3} more tags"


def _at_hand(config: Config, name: str) -> Repository | None:
    """The repository, if this machine has it."""
    if not name:
        return None
    try:
        repository = open_repository(config.repository, name)
        with repository.reading():
            view = repository.view
            return repository if view.is_dir(view.layout.layers) else None
    except (DuccmakeError, OSError):
        return None
