"""Removing images, in two phases, as edits.

First an image loses its link and its metadata (`withdraw`); its flat tree and its layers
stay, so that readers who are in the middle of them can finish, and an image that comes
back is simply linked again.  What nothing has used for the time of grace goes in the
second phase (`find`, `remove`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from ..errors import RepositoryError
from . import chains, ducc, history, podman, removal_schedule
from .edits import Edits
from .inventory import Survey, Use, survey
from .layout import Layout, digest_of
from .metadata import link_public_names
from .view import View

FLAT, LAYER, CHAIN = "flat tree", "layer", "chain of DUCC's"


@dataclass(frozen=True, slots=True, order=True)
class Thing:
    """What ``key`` names the directory of.

    A flat tree, with the podman store's image of it, a layer, or a chain that DUCC left.
    """

    kind: str
    key: str

    def paths(self, layout: Layout) -> tuple[PurePosixPath, ...]:
        """All that there is of it."""
        if self.kind == LAYER:
            return (layout.layers / self.key[:2] / self.key,)
        if self.kind == CHAIN:
            return chains.paths(layout, self.key)
        shard = f"{self.key[:2]}/{self.key}"
        in_store = podman.IMAGES / self.key
        return (layout.flats / shard, layout.flat_metadata / shard, in_store)


@dataclass(frozen=True, slots=True)
class Garbage:
    """What nothing uses: ``due`` may go now, ``waiting`` at a time (seconds since the epoch).

    ``unlisted`` are those that no entry of the schedule names yet; they are among
    the others.  ``used`` is what stays because somebody uses it, ``strange`` what
    stays because no image accounts for it.  ``images`` had the things, as far as is known.
    """

    due: tuple[Thing, ...]
    waiting: Mapping[Thing, float]
    unlisted: tuple[Thing, ...]
    used: Use
    strange: tuple[str, ...] = ()
    images: Mapping[Thing, str] = field(default_factory=dict)


def find(view: View, spoken_for: Use, *, now: float, grace: float) -> Garbage:
    """What is garbage now; ``spoken_for`` is what images to come will use.

    ``grace`` is in seconds.  Raises `RepositoryError` where the metadata of an image
    cannot be read: nothing is known to be unused then.
    """
    found = survey(view)
    _refuse_the_unread(found)
    used = found.used | spoken_for
    unused = _unused(found.present, used)
    unused += [Thing(CHAIN, key) for key in sorted(chains.unused(view))]
    entries = removal_schedule.parse(view.content(view.layout.remove_schedule))
    since = _since(entries)
    unlisted = tuple(thing for thing in unused if not since.get(thing))
    until = {thing: (since.get(thing) or now) + grace for thing in unused}
    return Garbage(
        tuple(thing for thing in unused if until[thing] <= now),
        {thing: when for thing, when in until.items() if when > now},
        unlisted,
        used,
        found.strange,
        {thing: entry.image for entry in entries if entry.image for thing in _things(entry)},
    )


def used_only_by(view: View, names: Iterable[str], spoken_for: Use) -> list[Thing]:
    """What nothing would use if the images of these names were not there."""
    found = survey(view)
    _refuse_the_unread(found)
    leaving = set(names)
    staying = {name: use for name, use in found.uses.items() if name not in leaving}
    later = Survey(staying, found.present).used | spoken_for
    now = found.used | spoken_for
    return [thing for thing in _unused(found.present, later) if _uses(now, thing)]


def enter(edits: Edits, things: Iterable[Thing], now: float) -> None:
    """Enter things that no entry names with the present time: their grace begins."""
    wanted = dict.fromkeys(things)
    if not wanted:
        return
    entries, schedule = [], edits.layout.remove_schedule
    listed = removal_schedule.parse(edits.content(schedule))
    for entry in listed:
        # DUCC's own entries have no time.
        covers = {thing for thing in _things(entry) if thing in wanted}  # layers may recur
        if covers and not entry.since:
            entry = replace(entry, since=now, why=entry.why or "listed by DUCC")
            for thing in covers:
                wanted.pop(thing)
        entries.append(entry)
    entries += [
        removal_schedule.Entry(_manifest(thing), now, why="nothing uses it") for thing in wanted
    ]
    edits.file(schedule, removal_schedule.dump(entries))


def remove(edits: Edits, things: Sequence[Thing], used: Use) -> None:
    """Remove things, the entries of which nothing unused is left, and DUCC's backlinks.

    Images of podman's store go with their flat trees and their layers.
    """
    view, layout, gone = edits.view, edits.layout, set(things)
    flats = [thing.key for thing in things if thing.kind == FLAT]
    layers = {thing.key for thing in things if thing.kind == LAYER}
    podman.without(edits, flats=flats, layers=layers)
    left_by_ducc = [thing.key for thing in things if thing.kind == CHAIN]
    emptied = set(chains.emptied(view, left_by_ducc)) if left_by_ducc else set()
    for path in emptied:
        edits.remove(path)
    for thing in things:
        for path in thing.paths(layout):
            if not emptied.intersection(path.parents):
                edits.remove(path)
    listed = removal_schedule.parse(edits.content(layout.remove_schedule))
    idle = chains.unused(view) if any(entry.chains for entry in listed) else frozenset()
    kept = [
        entry
        for entry in listed
        if any(thing not in gone and _is_left(view, thing, used, idle) for thing in _things(entry))
    ]
    if kept != listed:
        edits.file(layout.remove_schedule, removal_schedule.dump(kept))
    _forget_origins(edits, listed, gone)


def freed_bytes(view: View, things: Iterable[Thing]) -> int:
    """What removing things frees, as `View.freed` counts it."""
    return view.freed(path for thing in things for path in thing.paths(view.layout))


def _is_left(view: View, thing: Thing, used: Use, idle: Collection[str]) -> bool:
    if thing.kind == CHAIN:
        return thing.key in idle
    return not _uses(used, thing) and any(map(view.exists, thing.paths(view.layout)))


def _uses(use: Use, thing: Thing) -> bool:
    return thing.kind != CHAIN and thing.key in (use.layers if thing.kind == LAYER else use.flats)


def _refuse_the_unread(found: Survey) -> None:
    if found.unread:
        more = f" (and {len(found.unread) - 1} more)" if len(found.unread) > 1 else ""
        raise RepositoryError(
            f"{found.unread[0]}{more}: what that image uses is not known",
            step="collect garbage",
            hint="restore or remove the file, then run again; nothing was removed",
        )


def _unused(present: Use, used: Use) -> list[Thing]:
    # Flat trees first: a batch that ends between them and their layers leaves what is whole.
    return [Thing(FLAT, key) for key in sorted(present.flats - used.flats)] + [
        Thing(LAYER, key) for key in sorted(present.layers - used.layers)
    ]


def _since(entries: Iterable[removal_schedule.Entry]) -> dict[Thing, float]:
    since: dict[Thing, float] = {}
    for entry in entries:
        for thing in _things(entry):
            since[thing] = max(entry.since, since.get(thing, 0.0))
    return since


def _things(entry: removal_schedule.Entry) -> list[Thing]:
    flats = [entry.config] if entry.config else []
    named = ((FLAT, flats), (LAYER, entry.layers), (CHAIN, entry.chains))
    return [Thing(kind, digest.rpartition(":")[2]) for kind, found in named for digest in found]


def _manifest(thing: Thing) -> dict[str, object]:
    descriptor = {"digest": digest_of(thing.key)}
    manifest: dict[str, object] = {"schemaVersion": 2, "config": {}, "layers": []}
    if thing.kind == FLAT:
        return manifest | {"config": descriptor}
    return manifest | {"layers" if thing.kind == LAYER else "chains": [descriptor]}


def _forget_origins(
    edits: Edits, entries: Iterable[removal_schedule.Entry], gone: set[Thing]
) -> None:
    """Take the configurations that are gone out of DUCC's backlinks of the layers that stay."""
    for entry in entries:
        if not entry.config or Thing(FLAT, entry.config.rpartition(":")[2]) not in gone:
            continue
        for thing in _things(entry):
            origin = edits.layout.layers / thing.key[:2] / thing.key / ".metadata" / "origin.json"
            if thing.kind == LAYER and thing not in gone and edits.view.is_file(origin):
                edits.file(origin, ducc.origins_without(edits.content(origin), entry.config))


def withdraw(
    edits: Edits,
    leaving: Mapping[str, str],
    survey: Survey,
    now: float,
    *,
    for_good: bool = False,
) -> None:
    """Take away the links and the metadata of images, and enter them in the schedule.

    In podman's store they lose their names and keep their digests.
    ``leaving`` says why, by name.  What another image that stays has as well is
    not entered.  No tag can go back to what leaves ``for_good``.
    """
    layout = edits.layout
    staying = [use for name, use in survey.uses.items() if name not in leaving]
    used = {key for use in staying for key in use.flats}
    entries = []
    for name, why in leaving.items():
        manifest = layout.manifest(name)
        record = b"" if for_good else edits.content(layout.record(name))
        entered = removal_schedule.entered(edits.content(manifest), name, why, now, record=record)
        entries += [entry for entry in entered if entry.config.rpartition(":")[2] not in used]
        if edits.view.is_link(layout.link(name)):
            edits.remove(layout.link(name))
        edits.remove(manifest.parent)
    podman.without(edits, names=leaving)
    link_public_names(edits, leaving)
    history.forget(edits, leaving)
    if entries:
        listed = removal_schedule.parse(edits.content(layout.remove_schedule))
        edits.file(layout.remove_schedule, removal_schedule.dump([*listed, *entries]))
    _remove_emptied(edits)


def _remove_emptied(edits: Edits) -> None:
    """Remove the directories of which all content is removed, instead of that."""
    metadata = edits.layout.metadata
    kept = {PurePosixPath(), metadata, *(above for put in edits.puts for above in put.parents)}
    pending = list(edits.removals)
    while pending:
        parent = pending.pop(0).parent
        if parent in kept:
            continue
        children = {parent / name for name in edits.view.entries(parent)}
        if children and children <= edits.removals.keys():
            for child in children:
                del edits.removals[child]
            edits.remove(parent)
            pending.append(parent)
    # Links go first.
    ordered = sorted(edits.removals, key=lambda path: metadata in path.parents)
    edits.removals = dict.fromkeys(ordered)
