"""The first phase of a removal, as edits: an image loses its link and its metadata.

Its flat tree and its layers stay where they are until nothing has used them for
the time of grace (see `duccmake.repository.removal`), so that readers who are in
the middle of them can finish, and an image that comes back is simply linked again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from . import history, podman, removal_schedule
from .edits import Edits
from .inventory import Survey
from .layout import Layout
from .metadata import link_public_names


def withdraw(
    edits: Edits,
    layout: Layout,
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
    staying = [use for name, use in survey.uses.items() if name not in leaving]
    used = {key for use in staying for key in use.flats}
    entries = []
    for name, why in leaving.items():
        manifest = layout.manifest(name)
        record = b"" if for_good else edits.content(layout.record(name))
        entered = removal_schedule.entered(edits.content(manifest), name, why, now, record=record)
        entries += [entry for entry in entered if entry.config.rpartition(":")[2] not in used]
        if layout.link(name).is_symlink():
            edits.remove(layout.link(name))
        edits.remove(manifest.parent)
    podman.without(edits, layout, names=leaving)
    link_public_names(edits, layout, leaving)
    history.forget(edits, layout, leaving)
    if entries:
        listed = removal_schedule.parse(edits.content(layout.remove_schedule))
        edits.file(layout.remove_schedule, removal_schedule.dump([*listed, *entries]))
    _remove_emptied(edits, layout)


def _remove_emptied(edits: Edits, layout: Layout) -> None:
    """Remove the directories of which all content is removed, instead of that."""
    kept = {layout.root, layout.metadata, *(parent for put in edits.puts for parent in put.parents)}
    pending = list(edits.removals)
    while pending:
        parent = pending.pop(0).parent
        if parent in kept or not parent.is_dir():
            continue
        children = {Path(entry.path) for entry in os.scandir(parent)}
        if children <= edits.removals.keys():
            for child in children:
                del edits.removals[child]
            edits.remove(parent)
            pending.append(parent)
    # Links go first.
    ordered = sorted(edits.removals, key=lambda path: layout.metadata in path.parents)
    edits.removals = dict.fromkeys(ordered)
