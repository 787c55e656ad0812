"""What nothing uses: found, waited for, removed; what somebody uses stays."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from duccmake.errors import RepositoryError
from duccmake.jobs.collect_garbage import collect
from duccmake.repository import removal_schedule
from duccmake.repository.edits import Edits
from duccmake.repository.inventory import Use, survey
from duccmake.repository.model import ChangeSet
from duccmake.repository.removal import FLAT, LAYER, Thing, find, freed_bytes, withdraw
from support.ducc_repository import leave_as_ducc
from support.on_disk import OnDisk
from support.staged_trees import (
    BASE,
    NAME,
    TOP,
    digest_of,
    file,
    flat_of,
    listing,
    publish,
    stage,
    stage_image,
    stage_layer,
)

DAY = 86400.0
NOW = 1_800_000_000.0
NOTHING = Use()
OTHER_TOP = [*TOP, file("usr/share/version", b"2")]


def leave(repository, *names, now=NOW):
    with repository.lock():
        edits = Edits(repository.view)
        why = dict.fromkeys(names, "not wished for")
        withdraw(edits, why, survey(repository.view), now)
        repository.edit(edits)


def gc(repository, now, *, grace=7 * DAY, batch=50, spoken_for=NOTHING):
    return collect(repository, spoken_for=spoken_for, grace=grace, batch=batch, clock=lambda: now)


def garbage(repository, now=NOW, grace=7 * DAY, spoken_for=NOTHING):
    return find(repository.view, spoken_for, now=now, grace=grace)


def things(image, *layers):
    return {Thing(FLAT, image.config.hex), *(Thing(LAYER, layer.hex) for layer in layers)}


def entries(repository):
    return removal_schedule.parse(OnDisk(repository.path).remove_schedule.read_bytes())


def test_an_image_loses_its_name_at_once_and_its_content_after_the_time_of_grace(
    repository, staging
):
    (image,) = publish(repository, stage(staging))
    leave(repository, NAME)
    assert list(repository.names()) == []
    assert not (repository.path / NAME).is_symlink()
    assert not OnDisk(repository.path).manifest(NAME).exists()
    assert flat_of(repository, image).is_dir()

    assert gc(repository, NOW + 6 * DAY).flats == 0
    assert flat_of(repository, image).is_dir()
    collected = gc(repository, NOW + 7 * DAY)
    assert (collected.flats, collected.layers, collected.waiting) == (1, 2, 0)
    present = survey(repository.view).present
    assert (present.flats, present.layers) == (frozenset(), frozenset())
    assert entries(repository) == []
    assert sorted(p.name for p in repository.path.iterdir()) == [".duccmake", ".metadata"]
    assert [p.name for p in OnDisk(repository.path).metadata.iterdir()] == ["remove-schedule.json"]


def test_the_schedule_has_the_manifest_as_ducc_reads_it_with_the_time_beside_it(
    repository, staging
):
    (image,) = publish(repository, stage(staging))
    leave(repository, NAME)
    (entry,) = json.loads(OnDisk(repository.path).remove_schedule.read_bytes())
    added = entry.pop("duccmake")
    assert entry == json.loads(image.manifest_bytes)
    assert added.pop("manifest").encode() == image.manifest_bytes
    assert added.pop("record")["name"] == NAME
    assert added == {"since": "2027-01-15T08:00:00Z", "image": NAME, "why": "not wished for"}


def test_layers_of_another_image_stay_whole(repository, staging):
    (first,) = publish(repository, stage(staging, "host/a:1", config="one"))
    (second,) = publish(repository, stage(staging, "host/a:2", top=OTHER_TOP, config="two"))
    before = listing(flat_of(repository, second))
    leave(repository, "host/a:1")
    gc(repository, NOW + 8 * DAY)
    assert repository.verify("host/a:2") == []
    assert listing(flat_of(repository, second)) == before
    assert not flat_of(repository, first).exists()
    assert not repository.has_layer(first.layers[1])
    origin = json.loads(OnDisk(repository.path).origin(second.layers[0]).read_bytes())
    assert origin == {"origin": [str(second.config)]}


def test_an_image_that_came_back_within_its_grace_is_safe_and_nothing_is_made_again(
    repository, staging
):
    (image,) = publish(repository, stage(staging))
    inode = flat_of(repository, image).stat().st_ino
    leave(repository, NAME)
    again = stage(staging)
    publish(repository, ChangeSet((), again.images))
    assert flat_of(repository, image).stat().st_ino == inode
    assert gc(repository, NOW + 30 * DAY).flats == 0
    assert repository.verify(NAME) == []
    assert entries(repository) == []


def test_grace_counts_from_the_last_image_that_had_a_layer(repository, staging):
    publish(repository, stage(staging, "host/a:1", config="one"))
    (second,) = publish(repository, stage(staging, "host/a:2", top=OTHER_TOP, config="two"))
    leave(repository, "host/a:1", now=NOW)
    leave(repository, "host/a:2", now=NOW + 5 * DAY)
    found = garbage(repository, NOW + 8 * DAY)
    assert set(found.waiting) == things(second, *second.layers)
    assert set(found.waiting.values()) == {NOW + 12 * DAY}


def test_what_never_was_an_image_is_entered_when_it_is_first_met(repository, staging):
    layer = stage_layer(staging, "alone", BASE)
    publish(repository, ChangeSet((layer,), ()))
    assert garbage(repository).due == ()
    assert [thing.key for thing in garbage(repository).unlisted] == [layer.digest.hex]
    assert gc(repository, NOW).waiting == 1
    (entry,) = entries(repository)
    assert (entry.layers, entry.config, entry.since) == ((str(layer.digest),), "", NOW)
    assert gc(repository, NOW + 7 * DAY).layers == 1
    assert entries(repository) == []


def test_an_entry_of_duccs_without_a_time_gets_its_grace_from_now_on(repository, staging):
    (old,) = publish(repository, stage(staging, config="one"))
    publish(repository, stage(staging, top=OTHER_TOP, config="two"))
    path = OnDisk(repository.path).remove_schedule
    path.write_text(json.dumps([json.loads(old.manifest_bytes)]))
    assert gc(repository, NOW).flats == 0
    assert [entry.since for entry in entries(repository)] == [NOW]
    assert gc(repository, NOW + 7 * DAY).flats == 1


def test_an_image_of_duccs_without_a_record_keeps_what_its_manifest_names(repository, staging):
    (image,) = publish(repository, stage(staging))
    OnDisk(repository.path).record(NAME).unlink()
    found = garbage(repository, NOW, grace=0)
    assert found.due == ()
    gc(repository, NOW, grace=0)
    assert flat_of(repository, image).is_dir()


def test_a_link_alone_keeps_its_tree_and_the_layers_that_the_tree_was_made_of(repository, staging):
    (image,) = publish(repository, stage(staging))
    shutil.rmtree(OnDisk(repository.path).manifest(NAME).parent)
    gc(repository, NOW, grace=0)
    assert (repository.path / NAME / "etc/passwd").is_file()
    assert all(map(repository.has_layer, image.layers))


def test_nothing_is_removed_while_the_metadata_of_an_image_cannot_be_read(repository, staging):
    publish(repository, stage(staging, "host/a:1", config="one"))
    (gone,) = publish(repository, stage(staging, "host/a:2", top=OTHER_TOP, config="two"))
    leave(repository, "host/a:2")
    OnDisk(repository.path).record("host/a:1").write_text("{")
    assert garbage(repository, NOW, grace=0).due, "its manifest says the same"
    OnDisk(repository.path).manifest("host/a:1").write_text("[]")
    with pytest.raises(RepositoryError, match=r"host/a:1: .*damaged.*nothing was removed"):
        gc(repository, NOW, grace=0)
    assert flat_of(repository, gone).is_dir()


def test_what_no_image_accounts_for_is_told_and_left(repository, staging):
    publish(repository, stage(staging))
    strange = OnDisk(repository.path).layers / "ab" / "notes"
    strange.mkdir(parents=True)
    (OnDisk(repository.path).flats / "README").write_text("hello")
    (OnDisk(repository.path).layers / "ab" / ".cvmfscatalog").touch()
    collected = gc(repository, NOW, grace=0)
    assert collected.strange == [".flat/README", ".layers/ab/notes"]
    assert strange.is_dir()


def test_what_an_image_to_come_will_use_is_spared(repository, staging):
    (image,) = publish(repository, stage(staging))
    leave(repository, NAME)
    spoken_for = Use.of([], [image.layers[0]])
    assert gc(repository, NOW, grace=0, spoken_for=spoken_for).layers == 1
    assert repository.has_layer(image.layers[0])


def test_batches_are_transactions_of_their_own(repository, staging, monkeypatch):
    for number in range(3):
        publish(repository, stage(staging, f"host/a:{number}", config=str(number)))
    leave(repository, *[f"host/a:{number}" for number in range(3)])
    carried_out = []
    edit = repository.edit
    monkeypatch.setattr(repository, "edit", lambda edits: carried_out.append(edits) or edit(edits))
    collected = gc(repository, NOW, grace=0, batch=2)
    assert (collected.flats, collected.layers) == (3, 2)
    assert len(carried_out) == 3
    assert all(len(edits.removals) <= 4 for edits in carried_out)


def test_bytes_count_once_and_only_when_their_last_name_goes(repository, staging):
    (image,) = publish(repository, stage(staging))
    view, flat = repository.view, flat_of(repository, image)
    tree, layers = Thing(FLAT, image.config.hex), [Thing(LAYER, one.hex) for one in image.layers]
    alone = freed_bytes(view, [tree])
    beside = (repository.path / view.layout.flat_manifest(image.config).parent).iterdir()
    assert alone == sum(path.stat().st_size for path in beside)
    both = freed_bytes(view, [tree, *layers])
    assert both == freed_bytes(view, layers) + alone + sum(
        size_once(OnDisk(repository.path), digest, flat) for digest in image.layers
    )
    assert both > 3000


def size_once(layout, digest, flat):
    """Bytes of the layer's files that the flat tree shares."""
    shared = {path.lstat().st_ino for path in flat.rglob("*") if path.is_file()}
    found = {
        status.st_ino: status.st_size
        for path in layout.layerfs(digest).rglob("*")
        if path.is_file() and not path.is_symlink()
        for status in [path.lstat()]
    }
    return sum(size for inode, size in found.items() if inode in shared)


def test_the_same_tree_under_two_names_goes_with_the_second(repository, staging):
    publish(repository, stage(staging, "host/a:1", config="one"))
    (image,) = publish(repository, stage(staging, "host/a:latest", config="one"))
    leave(repository, "host/a:1")
    assert not OnDisk(repository.path).remove_schedule.exists() or entries(repository) == []
    gc(repository, NOW, grace=0)
    assert repository.verify("host/a:latest") == []
    leave(repository, "host/a:latest", now=NOW + DAY)
    assert [entry.image for entry in entries(repository)] == ["host/a:latest"]
    gc(repository, NOW + DAY, grace=0)
    assert not flat_of(repository, image).exists()


def test_a_schedule_that_is_no_json_costs_time_but_no_image(repository, staging):
    (image,) = publish(repository, stage(staging))
    leave(repository, NAME)
    OnDisk(repository.path).remove_schedule.write_text("[{")
    assert gc(repository, NOW + 30 * DAY).flats == 0
    assert flat_of(repository, image).is_dir()
    assert gc(repository, NOW + 37 * DAY).flats == 1


def test_recompressed_layers_of_the_same_configuration_are_garbage_of_their_own(
    repository, staging
):
    layers = [(stage_layer(staging, "one", BASE), BASE)]
    (old,) = publish(
        repository,
        ChangeSet((layers[0][0],), (stage_image(staging / "i", NAME, layers, config="c"),)),
    )
    layers = [(stage_layer(staging, "other", BASE), BASE)]
    publish(
        repository,
        ChangeSet((layers[0][0],), (stage_image(staging / "i", NAME, layers, config="c"),)),
    )
    gc(repository, NOW)
    assert gc(repository, NOW + 8 * DAY).layers == 1
    assert not repository.has_layer(old.layers[0])
    assert repository.verify(NAME) == []
    assert repository.has_layer(digest_of("other"))


def test_links_for_another_platform_count(repository, staging):
    (image,) = publish(repository, stage(staging))
    shutil.rmtree(OnDisk(repository.path).manifest(NAME).parent)
    (repository.path / NAME).unlink()
    link = repository.path / ".multiarch/arm64" / NAME
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(flat_of(repository, image), link.parent))
    gc(repository, NOW, grace=0)
    assert flat_of(repository, image).is_dir()
    assert OnDisk(repository.path).layer(image.layers[0]).is_dir()


def test_an_entry_of_duccs_in_which_a_layer_recurs_begins_its_time_of_grace(repository, staging):
    publish(repository, stage(staging))
    leave(repository, NAME)
    (entry,) = json.loads(OnDisk(repository.path).remove_schedule.read_bytes())
    del entry["duccmake"]
    entry["layers"] += entry["layers"][:1]
    OnDisk(repository.path).remove_schedule.write_text(json.dumps([entry]))
    assert gc(repository, NOW).waiting == 3
    assert gc(repository, NOW + 7 * DAY).flats == 1


def test_what_images_of_ducc_use_stays_although_they_have_no_records(repository, staging):
    publish(repository, stage(staging))
    leave_as_ducc(repository.path)
    found = survey(repository.view)
    assert found.unread == ()
    assert found.present == found.used
    assert garbage(repository).due == ()


def test_what_ducc_lists_for_removal_is_known_by_its_own_names(repository, staging):
    publish(repository, stage(staging))
    leave_as_ducc(repository.path)
    manifest = json.loads(OnDisk(repository.path).manifest(NAME).read_bytes())
    (entry,) = removal_schedule.parse(json.dumps([manifest]).encode())
    assert entry.config == manifest["Config"]["Digest"]
    assert list(entry.layers) == [layer["Digest"] for layer in manifest["Layers"]]


def test_an_image_that_somebody_else_put_into_podmans_store_stays(repository, staging):
    publish(repository, stage(staging))
    leave(repository, NAME)
    identity, layer = "ab" * 32, "cd" * 32
    store = repository.path / "podmanStore"
    for path, content in {
        f"overlay-images/{identity}/manifest": "{}",
        "overlay-images/images.json": json.dumps([{"id": identity, "layer": layer}]),
        "overlay-layers/layers.json": json.dumps([{"id": layer}]),
        f"overlay/{layer}/diff/file": "x",
    }.items():
        (store / path).parent.mkdir(parents=True, exist_ok=True)
        (store / path).write_text(content)
    for now in (NOW, NOW + 100 * DAY):
        collected = gc(repository, now)
    assert collected.strange == [f"podmanStore/overlay-images/{identity}"]
    assert (store / f"overlay-images/{identity}/manifest").exists()
    assert (store / f"overlay/{layer}/diff/file").exists()
    assert json.loads((store / "overlay-images/images.json").read_bytes())[0]["id"] == identity
    assert survey(repository.view).present.layers == frozenset()
