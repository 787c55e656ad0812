"""Which images have to leave a repository, and why: wish list, registry and retention decide.

An error never makes an image leave: neither one of a registry nor one in a wish
list.  Where it is not known what is wished for, all stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from ..config.settings import RemovalSettings
from ..errors import MANIFEST_UNKNOWN, DuccmakeError, NotFound
from ..oci.globs import matches
from ..oci.reference import Reference
from ..oci.tags import TagRules
from ..recipe.model import Recipe, Wish
from ..registry.places import Places
from ..repository.layout import split_variant
from ..repository.removal_schedule import timestamp
from .model import Departure
from .poll_memory import PollMemory
from .resolution import Resolution

logger = logging.getLogger(__name__)

KEPT = "and kept, as removal.policy says; see 'snakemake prune -n'"
"""How the warning ends that who prunes need not hear."""


class Listings:
    """Which tags registries have and lack; each repository is listed once.

    ``known`` are images that registries answered for: that a registry does not know a
    repository counts only where it knows another.  An answer 404 counts only in the
    registry's own words: a proxy, or a registry that has lost all, says nothing.
    """

    def __init__(self, places: Places, known: Iterable[Reference] = ()) -> None:
        self._places = places
        self._known = tuple(known)
        self._tags: dict[str, frozenset[str] | None] = {}
        self._answers: dict[Reference, bool] = {}

    def lists(self, reference: Reference) -> bool | None:
        """Whether the registry lists the tag; None where it does not say, or there is none."""
        if reference.digest is not None or not reference.tag:
            return None
        tags = self.tags(reference)
        return None if tags is None else reference.tag in tags

    def lacks(self, reference: Reference) -> bool | None:
        """Whether the registry, asked for the tag itself, knows of none; None if it does not say.

        A list alone is no proof: it may be cut short, or filtered.
        """
        try:
            self._places.of(reference).poll(reference)
        except NotFound as error:
            return error.code == MANIFEST_UNKNOWN or self._forgot(error, reference) or None
        except DuccmakeError as error:
            logger.info("%s: what is published of it stays", error)
            return None
        return False

    def tags(self, reference: Reference) -> frozenset[str] | None:
        """All tags of the repository; None where the registry does not say."""
        key = _repository(reference)
        if key not in self._tags:
            self._tags[key] = self._list(reference)
        return self._tags[key]

    def _list(self, reference: Reference) -> frozenset[str] | None:
        try:
            return frozenset(self._places.of(reference).tags(reference))
        except NotFound as error:
            return frozenset() if self._forgot(error, reference) else None
        except DuccmakeError as error:
            logger.info("%s: what is published of it stays", error)
            return None

    def _forgot(self, error: NotFound, reference: Reference) -> bool:
        """Whether the registry has lost this repository, and not all of them."""
        if error.code not in ("NAME_UNKNOWN", "NAME_INVALID"):
            return False
        others = (
            other
            for other in self._known
            if other.registry == reference.registry and _repository(other) != _repository(reference)
        )
        other = next(others, None)
        return other is not None and self._answered(other)

    def _answered(self, reference: Reference) -> bool:
        if reference not in self._answers:
            self._answers[reference] = self.lacks(reference) is False
        return self._answers[reference]


def _repository(reference: Reference) -> str:
    return str(reference).removesuffix(reference.suffix)


@dataclass(slots=True)
class Leaving:
    """What becomes of a repository's images that are not, or not any more, wished for.

    ``warnings`` are lines for people.
    """

    departures: list[Departure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def leaving(
    recipe: Recipe,
    resolution: Resolution,
    published: Iterable[str],
    manifest_of: Callable[[str], str],
    *,
    listings: Listings,
    memory: PollMemory,
    settings: RemovalSettings,
    now: float,
    retired: Mapping[str, str] = {},
    protected: Callable[[str], bool] = lambda name: False,
) -> Leaving:
    """Which of the ``published`` names leave the recipe's repository.

    ``manifest_of`` gives the digest of the manifest that is published under a name,
    or "" for an image that duccmake has not published: that stays.  ``retired``
    are names that retention gives up, with the reason; ``protected`` ones stay
    whatever is wished for.  Notes in ``memory`` since when a registry lacks a tag.
    """
    wanted = {item.path: item for item in resolution.resolved}
    for path, item in wanted.items():
        if not item.stale and path not in retired:
            memory.note_presence(item.reference.name)
    wishes = _Wishes(recipe, resolution, retired, settings.pinned, protected)
    found = Leaving()
    strangers = 0
    for name in filter(wishes.lets_go, published):
        manifest = manifest_of(name)
        if not manifest:
            strangers += 1
            continue
        public = split_variant(name)[1]
        why = wishes.why(name) or _why(recipe, public, listings, memory, settings.confirm, now)
        if why is None:
            since = memory.absent_since(public) or now
            found.warnings.append(
                f"{name}: its registry lacks the tag since {timestamp(since)}; a poll after "
                f"{timestamp(since + settings.confirm)} decides whether it is gone"
            )
        elif why:
            found.departures.append(Departure(recipe.repository, name, manifest, why))
    if strangers:
        found.warnings.append(
            f"{recipe.repository}: {_images(strangers)} not published by duccmake and not wished "
            "for, and kept: only what has a record can leave"
        )
    _hold_back(found, recipe, settings)
    return found


class _Wishes:
    """What the wishes alone say of a published name."""

    def __init__(
        self,
        recipe: Recipe,
        resolution: Resolution,
        retired: Mapping[str, str],
        pinned: Collection[str],
        protected: Callable[[str], bool],
    ) -> None:
        self._wanted = {item.path for item in resolution.resolved}
        self._missed = {item.path or item.name: item for item in resolution.unresolved}
        self._retired = retired
        self._pinned = pinned
        self._protected = protected
        # Names of which an image is wished for, on one platform or on several.
        self._on_several = {
            public: label != ""
            for label, public in map(split_variant, (*self._wanted, *self._missed))
        }

    def lets_go(self, name: str) -> bool:
        """Whether an image may leave, as far as is known without asking its registry."""
        label, public = split_variant(name)
        if (name in self._wanted and name not in self._retired) or self._protected(name):
            return False
        if any(matches(glob, public) for glob in self._pinned):
            return False
        if name in self._missed and self._missed[name].passing:
            return False
        # The first of its platforms to be published takes the place of a public name.
        takes_over = not label and self._on_several.get(public, False)
        return not takes_over or name in self._retired

    def why(self, name: str) -> str:
        """Why an image leaves that its registry need not be asked about; or nothing."""
        if name in self._retired:
            return self._retired[name]
        label, public = split_variant(name)
        if label and public in self._on_several and name not in self._missed:
            return f"it is not wished for on {label} any more"
        return ""


def _hold_back(found: Leaving, recipe: Recipe, settings: RemovalSettings) -> None:
    """Let nothing leave where it is not known what is wished for; say what the policy keeps."""
    if not found.departures:
        return
    images = f"{recipe.repository}: {_images(len(found.departures))} not wished for any more"
    if doubt := _doubt(recipe):
        found.warnings.append(f"{images}, as far as can be read, and kept: {doubt}")
        found.departures.clear()
    elif settings.policy == "keep":
        found.warnings.append(f"{images} {KEPT}")


def _why(
    recipe: Recipe,
    name: str,
    listings: Listings,
    memory: PollMemory,
    confirm: float,
    now: float,
) -> str | None:
    """Why an image leaves; empty where it stays, None where its absence waits to be confirmed."""
    reference, globs = _wishes_for(recipe, name)
    if reference is None:
        return "not in the wish list any more"
    listed = listings.lists(reference)
    if listed is None:
        return ""
    if listed:
        memory.note_presence(name)
        # That it was not resolved may be an error's doing: the listing decides.
        if not globs or any(reference.tag in _chosen(glob, listings) for glob in globs):
            return ""
        return "its tag is not among those that are wished for"
    since = memory.absent_since(name)
    if since is not None and now - since < confirm:
        return None
    lacks = listings.lacks(reference)
    if lacks is False:
        memory.note_presence(name)
    if not lacks:
        return ""
    memory.note_absence(name, now)
    return None if since is None else "its tag is gone from the registry"


def _doubt(recipe: Recipe) -> str:
    """Why it is not known all that is wished for; empty where it is."""
    if recipe.bad_entries:
        return f"{recipe.bad_entries[0]}"
    return recipe.stale


def _wishes_for(recipe: Recipe, name: str) -> tuple[Reference | None, list[Wish]]:
    """What a published name was wished for as, with its tag, and the globs that may bring it.

    There are none where the wish list has the name itself.
    """
    found, globs = None, []
    for wish in recipe.wishes:
        reference = wish.reference
        if not reference.is_glob:
            if reference.name == name:
                return reference, []
            continue
        base = f"{reference.registry}/{reference.repository}:"
        tag = name.removeprefix(base)
        # What has a digest as well no glob ever brought.
        if name.startswith(base) and "@" not in tag and matches(reference.tag, tag):
            found = found or reference.with_tag(tag)
            globs.append(wish)
    return found, globs


def _chosen(wish: Wish, listings: Listings) -> Collection[str]:
    """The tags that a glob brings, of all that its registry lists."""
    rules = wish.wished.tags or TagRules((wish.reference.tag,))
    return rules.choose(sorted(listings.tags(wish.reference) or ()))


def _images(count: int) -> str:
    return "1 image is" if count == 1 else f"{count} images are"
