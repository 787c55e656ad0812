"""What publishing into CernVM-FS has to give, on the real thing and on its stand-in."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from duccmake.cvmfs import objects
from duccmake.cvmfs.catalog import CatalogFile
from duccmake.cvmfs.codec import Codec
from duccmake.cvmfs.keeping import Keeping
from duccmake.cvmfs.names import Kind
from duccmake.errors import DuccmakeError, RepositoryError, RepositoryLocked
from duccmake.jobs.publish_image import publish_ready
from duccmake.layer.catalogs import StagedCatalogs
from duccmake.oci.content_store import ContentStore
from duccmake.repository.edits import Edits
from duccmake.repository.model import UNMEASURED, ChangeSet
from support import staged_trees as make
from support.cvmfs_repositories import CHUNKS, GATEWAY, LARGEST, both
from support.ducc_repository import leave_as_ducc
from support.on_disk import OnDisk
from support.planned import image, planned_as_staged
from support.staged_trees import (
    NAME,
    TOP,
    char,
    digest_of,
    directory,
    file,
    hard_link,
    publish,
    stage,
    stage_image,
    stage_layer,
    whiteout,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")


LARGE = 40_000
PUBLISHERS = pytest.mark.parametrize("publisher", ["catalogs", "ingest"])
DOC = b"doc" * 1000
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def seconds(listed):
    """A listing with times in whole seconds, as CernVM-FS keeps them, without markers.

    Whiteouts have the time of their making, whatever the backend.
    """
    return {
        path: (*entry[:4], 0 if entry[5] == 0 else entry[4] // 10**9, entry[5])
        for path, entry in listed.items()
        if Path(path).name != ".cvmfscatalog"
    }


@PUBLISHERS
def test_the_flat_tree_is_the_directory_backends_entry_by_entry(
    cvmfs, staging, tmp_path, publisher
):
    changes = stage(staging)
    repository = cvmfs.open(publisher=publisher)
    (image,) = publish(repository, changes)
    plain = make.open_repository(tmp_path / "plain")
    publish(plain, changes)

    assert repository.verify(NAME) == []
    found = make.listing(make.flat_of(repository, image))
    assert seconds(found) == seconds(make.listing(make.flat_of(plain, image)))
    for digest in image.layers:
        found = make.listing(OnDisk(repository.path).layerfs(digest))
        assert seconds(found) == seconds(make.listing(OnDisk(plain.path).layerfs(digest)))
    assert cvmfs.problems() == ""


@PUBLISHERS
def test_an_images_own_markers_of_catalogs_are_left_out(cvmfs, staging, publisher):
    top = [directory("."), directory("opt"), file("opt/.cvmfscatalog", b"its own"), file("opt/f")]
    repository = cvmfs.open(publisher=publisher)
    (image,) = publish(repository, stage(staging, top=top))
    assert repository.verify(NAME) == []
    assert set(make.names(make.flat_of(repository, image) / "opt")) == {"f"}
    assert repository.record(NAME).losses["names"] == 1
    assert cvmfs.problems() == ""


@PUBLISHERS
def test_an_image_is_published_in_one_revision_and_nothing_in_none(cvmfs, staging, publisher):
    repository = cvmfs.open(publisher=publisher)
    before = cvmfs.revision()
    changes = stage(staging)
    publish(repository, changes)
    assert cvmfs.revision() == before + 1
    publish(repository, changes)
    publish(repository)
    assert cvmfs.revision() == before + 1


@PUBLISHERS
def test_what_refers_to_an_image_is_there_with_it(cvmfs, staging, publisher):
    repository = cvmfs.open(publisher=publisher)
    changes = stage(staging)
    kept = OnDisk(repository.path).referrers(NAME)
    for wanted in ({"index.json": b"{}", "blobs/sha256/aa": b"a"}, {"index.json": b"[]"}):
        before = cvmfs.revision()
        image = replace(changes.images[0], referrers=wanted, signatures={"policy": before})
        publish(repository, ChangeSet(changes.layers, (image,)))
        after = cvmfs.revision()
        # An archive puts, and what goes is another matter.
        assert after == before + 1 or publisher == "ingest"
        publish(repository, ChangeSet(changes.layers, (image,)))
        assert cvmfs.revision() == after
        found = {str(path.relative_to(kept)): path for path in kept.rglob("*") if path.is_file()}
        assert {name: path.read_bytes() for name, path in found.items()} == wanted
    assert cvmfs.problems() == ""


@pytest.mark.parametrize("cvmfs", both(*CHUNKS), indirect=True)
@PUBLISHERS
def test_large_files_are_there_wherever_they_are(cvmfs, staging, tmp_path, publisher, monkeypatch):
    """In chunks where catalogs are written here, and in the same revision."""
    monkeypatch.setattr(objects, "CHUNK", LARGEST)
    monkeypatch.setattr(objects, "CHUNK_ABOVE", LARGEST)
    big = file("opt/big", os.urandom(LARGE), 0o755, uid=5, gid=6)
    top = [
        directory(".", 0o711),
        directory("opt", 0o1777, uid=7),
        big,
        hard_link("opt/same", big),
        file("opt/small", b"small"),
        file("opt/owned", b"o", 0o6755, uid=70_000, gid=5),
        char("opt/null", 1, 3),
    ]
    before = cvmfs.revision()
    repository = cvmfs.open(publisher=publisher)
    changes = stage(staging, top=top)
    (image,) = publish(repository, changes)
    plain = make.open_repository(tmp_path / "plain")
    publish(plain, changes)

    assert cvmfs.revision() == before + 1
    assert repository.verify(NAME) == []
    flat = make.flat_of(repository, image)
    assert seconds(make.listing(flat)) == seconds(make.listing(make.flat_of(plain, image)))
    layer = OnDisk(repository.path).layerfs(image.layers[1])
    for path in (flat / "opt/big", flat / "opt/same", layer / "opt/big", layer / "opt/same"):
        if publisher == "catalogs":
            assert int(os.getxattr(path, "user.chunks")) == 3
        assert path.read_bytes() == big[1]
    assert cvmfs.problems() == ""

    other = "registry.example.org/tools/app:2"
    publish(repository, stage(staging, other, top=[*top, file("new", b"new")]))
    assert repository.verify(other) == []
    assert cvmfs.problems() == ""


def commit_file(cvmfs, name, base):
    """Publish a file beside what is published here, as from another machine."""
    (base / name).touch()
    with tarfile.open(base / "theirs.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(base / name, name)
    cvmfs.server("ingest", "-t", str(base / "theirs.tar"), "-b", "/", "-k", cvmfs.name)


def link_of(repository, name=NAME):
    return OnDisk(repository.path).link(name)


def test_a_moved_tag_changes_its_link_and_schedules_what_it_left(cvmfs, staging):
    repository = cvmfs.open()
    (old,) = publish(repository, stage(staging))
    before = cvmfs.revision()
    moved = [*TOP, file("usr/moved", b"on")]
    publish(repository, stage(staging, top=moved, config="moved"))

    assert cvmfs.revision() == before + 1
    assert (link_of(repository) / "usr/moved").read_bytes() == b"on"
    scheduled = json.loads(OnDisk(repository.path).remove_schedule.read_bytes())
    assert [manifest["config"]["digest"] for manifest in scheduled] == [str(old.config)]
    assert make.flat_of(repository, old).is_dir()
    assert repository.verify(NAME) == []
    assert cvmfs.problems() == ""


@PUBLISHERS
def test_what_is_removed_is_gone_and_nothing_beside_it(cvmfs, staging, publisher):
    """Also where a colon in a name would end a path for cvmfs_server."""
    other = NAME.rpartition(":")[0] + ":2"
    repository = cvmfs.open(publisher=publisher)
    (image,) = publish(repository, stage(staging))
    publish(repository, stage(staging, other, top=[directory("."), file("other", b"o")]))
    layout = repository.view.layout
    edits = Edits(repository.view)
    edits.remove(layout.link(NAME))
    edits.remove(layout.manifest(NAME).parent)
    edits.remove(layout.flat(image.config))
    edits.remove(layout.layer(image.layers[1]))
    edits.file(layout.metadata / "note.json", b"{}")
    before = cvmfs.revision()
    with repository.lock():
        repository.edit(edits)

    assert publisher == "ingest" or cvmfs.revision() == before + 1
    assert repository.record(NAME) is None
    for path in edits.removals:
        assert not os.path.lexists(repository.path / path)
    assert list(repository.names()) == [other]
    assert (repository.path / ".metadata/note.json").read_bytes() == b"{}"
    assert repository.verify(other) == []
    assert cvmfs.problems() == ""


def test_an_operators_transaction_is_waited_for_and_never_aborted(cvmfs, staging):
    repository = cvmfs.open()
    changes = stage(staging)
    cvmfs.server("transaction", cvmfs.name)
    union = cvmfs.mounts / cvmfs.name
    (union / "of-the-operator").write_text("work")

    with pytest.raises(RepositoryLocked, match=r"open since .*'cvmfs_server abort"):
        publish(repository, changes)
    assert (union / "of-the-operator").read_text() == "work"
    cvmfs.server("publish", cvmfs.name)
    publish(repository, changes)
    assert (repository.path / "of-the-operator").read_text() == "work"
    assert repository.verify(NAME) == []


def test_publishing_goes_on_once_the_operator_has_published(cvmfs, staging):
    repository = cvmfs.open(lock_seconds=120)
    changes = stage(staging)
    cvmfs.server("transaction", cvmfs.name)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(publish, repository, changes)
        cvmfs.server("abort", "-f", cvmfs.name)
        waiting.result()
    assert repository.verify(NAME) == []


def test_an_open_file_below_the_mount_is_no_hindrance(cvmfs, staging):
    repository = cvmfs.open()
    with (cvmfs.mounts / cvmfs.name / "new_repository").open():
        publish(repository, stage(staging))
    assert repository.verify(NAME) == []


def test_an_ingest_that_fails_leaves_nothing_open_and_its_words_in_the_error(cvmfs, staging):
    repository = cvmfs.open(publisher="ingest")
    changes = stage(staging)
    doc = objects_of(changes.layers[1]) / object_of(DOC)
    whole = doc.read_bytes()
    doc.write_bytes(whole[:-1])
    before = cvmfs.revision()
    with pytest.raises(DuccmakeError, match=r"app:1: publish the layer "):
        publish(repository, changes)
    doc.write_bytes(whole)
    manifest = changes.images[0].path / "tree.mtree"
    text = manifest.read_bytes()
    lines = text.splitlines(keepends=True)
    line = next(line for line in lines if line.startswith(b"./usr/share/doc "))
    manifest.write_bytes(text.replace(line, line.replace(b"layer:1", b"layer:0")))
    with pytest.raises(RepositoryError, match="cannot be found"):
        publish(repository, changes)

    assert cvmfs.revision() == before
    manifest.write_bytes(text)
    publish(repository, changes)
    assert repository.verify(NAME) == []
    assert cvmfs.problems() == ""


@PUBLISHERS
def test_everything_can_be_put_below_a_directory(cvmfs, staging, publisher):
    prefix = "some/containers"
    repository = cvmfs.open(prefix=prefix, publisher=publisher)
    (image,) = publish(repository, stage(staging, prefix=prefix))
    top = cvmfs.spool / "rdonly"
    assert repository.path == top / "some/containers"
    assert sorted(path.name for path in top.iterdir()) == ["new_repository", "some"]
    assert (top / "some").stat().st_uid == 0
    assert stat.S_IMODE((top / "some/containers").stat().st_mode) == 0o755
    edits = Edits(repository.view)
    edits.remove(repository.view.layout.link(NAME))
    edits.remove(repository.view.layout.flat(image.config))
    publish(repository, stage(staging, NAME + ".2", config="two", prefix=prefix))
    with repository.lock():
        repository.edit(edits)
    assert not any(os.path.lexists(repository.path / path) for path in edits.removals)
    assert repository.verify(NAME + ".2") == []
    assert cvmfs.problems() == ""


@pytest.mark.parametrize("cvmfs", both(GATEWAY)[:1], indirect=True)
def test_through_a_gateway_what_takes_several_calls_is_done_in_several(cvmfs, staging):
    repository = cvmfs.open(prefix="containers")
    (image,) = publish(repository, stage(staging, prefix="containers"))
    assert repository.verify(NAME) == []
    layout = repository.view.layout
    edits = Edits(repository.view)
    for path in (layout.link(NAME), layout.flat(image.config), layout.layer(image.layers[1])):
        edits.remove(path)
    edits.file(layout.metadata / "note.json", b"{}")
    with repository.lock():
        repository.edit(edits)
    assert not any(os.path.lexists(repository.path / path) for path in edits.removals)
    assert (repository.path / ".metadata/note.json").read_bytes() == b"{}"


@pytest.mark.parametrize("cvmfs", both(GATEWAY)[:1], indirect=True)
def test_through_a_gateway_what_is_published_shows_although_others_publish_too(
    cvmfs, staging, tmp_path
):
    repository = cvmfs.open(prefix="containers")
    publish(repository, stage(staging, prefix="containers"))
    mounts = (cvmfs.spool / "rdonly", cvmfs.mounts / cvmfs.name)
    published = mounts[0].readlink()
    commit_file(cvmfs, "software", tmp_path)
    for mount in mounts:  # of this machine, which does not follow
        mount.unlink()
        mount.symlink_to(published)

    publish(repository, stage(staging, NAME + ".2", config="two", prefix="containers"))
    assert repository.verify(NAME + ".2") == []
    assert (cvmfs.spool / "rdonly/software").is_file()


@pytest.mark.parametrize("cvmfs", both(GATEWAY)[:1], indirect=True)
def test_nothing_is_published_where_a_gateway_would_lose_whiteouts(cvmfs, staging):
    with pytest.raises(RepositoryError, match=r"no whiteouts.*set repository.prefix"):
        publish(cvmfs.open(), stage(staging))


@pytest.mark.parametrize("cvmfs", both(GATEWAY)[:1], indirect=True)
def test_a_lease_is_on_what_is_published_and_another_one_is_waited_for(cvmfs, staging):
    repository = cvmfs.open(prefix="containers", lock_seconds=30)
    publish(repository, stage(staging, prefix="containers"))
    leases = cvmfs.base / "leases"
    leases.mkdir(exist_ok=True)

    (leases / "elsewhere").write_text("/software")
    publish(repository, stage(staging, NAME + ".2", config="two", prefix="containers"))

    (leases / "elsewhere").write_text("/containers")
    changes = stage(staging, NAME + ".3", config="three", prefix="containers")
    with pytest.raises(RepositoryLocked, match="lease path busy"):
        publish(cvmfs.open(prefix="containers"), changes)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(publish, repository, changes)
        (leases / "elsewhere").unlink()
        waiting.result(timeout=60)
    assert repository.verify(NAME + ".3") == []


NANOSECONDS = "CVMFS_ENABLE_MTIME_NS=true"


# Of the stand-in's ingest no time has parts of seconds.
@pytest.mark.parametrize(
    ("cvmfs", "publisher"),
    [
        pytest.param(*kind.values, publisher, marks=kind.marks, id=f"{publisher}-{kind.id}")
        for kind in both(NANOSECONDS)
        for publisher in ("catalogs", "ingest")
        if (publisher, kind.id) != ("ingest", "standin")
    ],
    indirect=["cvmfs"],
)
def test_parts_of_seconds_are_kept_where_the_repository_keeps_them(
    cvmfs, staging, tmp_path, publisher
):
    early = -1_500_000_001
    names = [directory("caf\u00e9", mtime_ns=early), file("caf\u00e9/" + "n" * 200, b"n")]
    changes = stage(staging, top=[*TOP, *names], keeping=Keeping(nanoseconds=True))
    repository = cvmfs.open(publisher=publisher)
    (image,) = publish(repository, changes)
    plain = make.open_repository(tmp_path / "plain")
    publish(plain, changes)
    found = make.listing(make.flat_of(repository, image))
    wanted = make.listing(make.flat_of(plain, image))
    assert {path: found[path] for path in wanted} == wanted
    record = repository.record(NAME)
    assert record is not None
    assert "mtimes" not in record.losses
    assert repository.verify(NAME) == []


@PUBLISHERS
def test_what_another_program_left_in_the_places_is_put_right(cvmfs, staging, tmp_path, publisher):
    """As DUCC leaves layers: names of deleted files as they are, owners and modes lost."""
    repository = cvmfs.open(publisher=publisher)
    changes = stage(staging)
    layout = OnDisk(repository.path)
    cvmfs.server("transaction", cvmfs.name)
    for tree in (
        layout.layerfs(changes.images[0].layers[1]),
        layout.flat(changes.images[0].config),
    ):
        left = cvmfs.mounts / cvmfs.name / tree.relative_to(repository.path)
        (left / "etc").mkdir(parents=True, mode=0o700)
        (left / "etc/new.conf").write_bytes(b"older")
        (left / "etc/.wh.old.conf").touch()
        (left / "etc/too much").mkdir()
        (left / "usr").write_bytes(b"is a directory in the image")
        (left / "lib").mkdir()
    cvmfs.server("publish", cvmfs.name)

    (image,) = publish(repository, changes)
    plain = make.open_repository(tmp_path / "plain")
    publish(plain, changes)
    assert repository.verify(NAME) == []
    found = make.listing(make.flat_of(repository, image))
    assert seconds(found) == seconds(make.listing(make.flat_of(plain, image)))
    assert cvmfs.problems() == ""


def test_image_of_ducc_is_taken_over_in_one_revision_with_its_trees_as_they_are(cvmfs, staging):
    repository = cvmfs.open()
    changes = stage(staging)
    (image,) = publish(repository, changes)
    layout = OnDisk(repository.path)
    cvmfs.server("transaction", cvmfs.name)
    union = cvmfs.mounts / cvmfs.name
    leave_as_ducc(union)
    (union / layout.flat(image.config).relative_to(repository.path) / ".singularity.d").mkdir()
    cvmfs.server("publish", cvmfs.name)
    assert repository.record(NAME) is None
    before, revision = make.listing(layout.flat(image.config)), cvmfs.revision()

    publish(repository, ChangeSet((), (replace(image, path=None),)))
    record = repository.record(NAME)
    assert record is not None
    assert record.losses == {UNMEASURED: 3}
    assert layout.manifest(NAME).read_bytes() == image.manifest_bytes
    assert make.listing(layout.flat(image.config)) == before
    assert cvmfs.revision() == revision + 1
    assert cvmfs.problems() == ""


@pytest.mark.parametrize(
    ("publisher", "odd"), [("ingest", False), ("ingest", True), ("catalogs", True)]
)
def test_layer_that_ducc_ingested_with_whiteouts_as_files_is_put_right(
    cvmfs, staging, tmp_path, publisher, odd
):
    """Within a transaction, cvmfs_server takes the removal of such a name for another's."""
    repository = cvmfs.open(publisher=publisher)
    top = [*TOP, directory("usr/share/g++"), whiteout("usr/share/g++/old")] if odd else TOP
    changes = stage(staging, top=top)
    layer = changes.images[0].layers[1]
    base = OnDisk(repository.path).layerfs(layer).relative_to(repository.path)
    left = tmp_path / "left" / base
    for name in ("etc/.wh.old.conf", "etc/new.conf", *(["usr/share/g++/.wh.old"] if odd else [])):
        (left / name).parent.mkdir(parents=True, exist_ok=True)
        (left / name).touch()
    with tarfile.open(tmp_path / "left.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(tmp_path / "left" / ".layers", ".layers")
    cvmfs.server("ingest", "-t", str(tmp_path / "left.tar"), "-b", "/", "-k", cvmfs.name)
    assert (repository.path / base / "etc/.wh.old.conf").exists()

    publish(repository, changes)
    assert repository.verify(NAME) == []
    assert not (repository.path / base / "etc/.wh.old.conf").exists()
    assert stat.S_ISCHR((repository.path / base / "etc/old.conf").lstat().st_mode)
    assert cvmfs.problems() == ""


@pytest.mark.parametrize("cvmfs", both()[:1], indirect=True)
def test_a_state_directory_that_a_shell_would_read_is_refused(cvmfs, staging, tmp_path):
    repository = cvmfs.open(state=tmp_path / "of us; touch it", publisher="ingest")
    with pytest.raises(RepositoryError, match=r"set repository\.state"):
        publish(repository, stage(staging))
    assert not (cvmfs.spool / "in_transaction.lock").exists()


def no_such_file(changes):
    """Have the flat tree be of a file that its layer has not."""
    manifest = changes.images[0].path / "tree.mtree"
    text = manifest.read_bytes()
    manifest.write_bytes(text.replace(b"layer:1", b"layer:1,source:no/such/file"))


def no_object(changes):
    """Lose what a file of the layer has in it."""
    (objects_of(changes.layers[1]) / object_of(b"bad")).unlink()


def for_another_place(changes):
    """Have the layer be staged as that of another image is."""
    path = changes.layers[1].path / "catalog.json"
    path.write_text(path.read_text().replace("/.layers/", "/elsewhere/.layers/"))


def against_the_rules(changes):
    """Have the layer's top catalog say other numbers than it has."""
    staged = StagedCatalogs.read(changes.layers[1].path)
    content = staged.objects.get(staged.tree.hash.hex() + Kind.CATALOG)
    with CatalogFile.read(content) as catalog:
        catalog.db.execute("UPDATE catalog SET mode = mode | 7 WHERE flags & 32")
        catalog.db.execute("UPDATE properties SET value = '/odd' WHERE key = 'root_prefix'")
        changed = catalog.db.serialize()
    path = changes.layers[1].path / "catalog.json"
    known = json.loads(path.read_bytes())
    known |= {"catalog": staged.objects.put(changed, Kind.CATALOG).hex(), "size": len(changed)}
    path.write_text(json.dumps(known))


@pytest.mark.parametrize("cvmfs", both()[:1], indirect=True)
@pytest.mark.parametrize(
    ("publisher", "damage", "told"),
    [
        ("ingest", no_such_file, r"status 1: .*no/such/file.* cannot be found"),
        ("catalogs", no_object, r"bad.* 1 objects of what is staged"),
        ("catalogs", for_another_place, r"bad.* is staged in .* is for /elsewhere/"),
        ("catalogs", against_the_rules, r"bad.* the catalog .* is not that of "),
    ],
)
def test_an_image_that_is_refused_stands_in_no_others_way(
    cvmfs, staging, tmp_path, caplog, publisher, damage, told
):
    repository = cvmfs.open(publisher=publisher)
    store = ContentStore(tmp_path / "manifests")
    wanted, layers, flats = [], {}, {}
    for tag in ("bad", "good"):
        name = f"registry.example.org/team/app:{tag}"
        changes = stage(staging, name, [directory("."), file("doc", tag.encode())])
        [staged] = changes.images
        layers |= {str(each.digest): each.path for each in changes.layers}
        store.put(staged.manifest, staged.manifest_bytes)
        wanted.append(
            image(
                name,
                repository=repository.name,
                manifest=staged.manifest,
                config=staged.config,
                layers=tuple(planned_as_staged(each.path) for each in changes.layers),
            )
        )
        flats[str(wanted[-1].tree)] = staged.path
        if tag == "bad":
            damage(changes)

    def publish_image(planned):
        return publish_ready(planned, wanted, repository, layers=layers, flats=flats, store=store)

    with pytest.raises(RepositoryError, match=told):
        publish_image(wanted[0])
    assert list(repository.names()) == [wanted[1].name]
    assert repository.verify(wanted[1].name) == []
    assert publish_image(wanted[1]).name == wanted[1].name
    assert "one by one" in caplog.text
    assert cvmfs.problems() == ""


# --- what catalogs keep, and ingest does not ---------------------------------------


def test_extended_attributes_and_hard_links_in_a_directory_are_kept(cvmfs, staging):
    ping = file("opt/ping", b"ping", 0o755, xattrs=((b"security.capability", CAPABILITY),))
    noted = file("opt/noted", b"noted", xattrs=((b"user.note", b"kept"), (b"user.other", b"")))
    far = hard_link("opt/far/same", noted)
    top = [directory("opt"), directory("opt/far"), noted, hard_link("opt/same", noted), ping, far]
    keeping = Keeping(hard_links=True)
    repository = cvmfs.open(publisher="catalogs", hard_links=True)
    (image,) = publish(repository, stage(staging, top=top, keeping=keeping))

    assert repository.verify(NAME) == []
    losses = repository.record(NAME).losses
    assert (losses.get("xattrs"), losses["hardlinks"]) == (None, 1)
    for tree in (make.flat_of(repository, image), OnDisk(repository.path).layerfs(image.layers[1])):
        assert os.getxattr(tree / "opt/ping", "security.capability") == CAPABILITY
        assert os.getxattr(tree / "opt/noted", "user.note") == b"kept"
        assert (tree / "opt/noted").samefile(tree / "opt/same")
        if cvmfs.real:
            assert (tree / "opt/noted").stat().st_nlink == 2
    assert cvmfs.problems() == ""


def test_an_opaque_directory_that_was_published_without_its_mark_gets_it(cvmfs, staging):
    """As ingest publishes it: with a whiteout for each name that it hides in an image."""
    top = [directory("."), directory("usr"), directory("usr/lib", flags=frozenset({b"opaque"}))]
    hidden = [whiteout("usr/lib/setuid")]
    digest = digest_of(f"top {len(top)} {make.hash_of(top)}")
    mark = OnDisk(cvmfs.open().path).layerfs(digest) / "usr/lib"

    def publish_with(publisher, name):
        repository = cvmfs.open(publisher=publisher)
        publish(repository, stage(staging, name, top, notes={digest: hidden}))
        assert repository.verify(name) == []
        return repository

    publish_with("ingest", NAME)
    assert stat.S_ISCHR((mark / "setuid").lstat().st_mode)
    assert "user.overlay.opaque" not in os.listxattr(mark)
    before = cvmfs.revision()
    repository = publish_with("catalogs", NAME + ".2")
    assert os.getxattr(mark, "user.overlay.opaque") == b"y"
    assert stat.S_ISCHR((mark / "setuid").lstat().st_mode)
    assert cvmfs.revision() == before + 1
    publish_with("catalogs", NAME + ".3")
    assert repository.verify(NAME) == repository.verify(NAME + ".2") == []
    assert cvmfs.problems() == ""


def test_what_one_publisher_left_the_other_goes_on_with(cvmfs, staging):
    names = [f"{NAME}.{number}" for number in range(4)]
    for number, name in enumerate(names):
        repository = cvmfs.open(publisher=("ingest", "catalogs")[number % 2])
        publish(repository, stage(staging, name, top=[*TOP, file(f"own{number}", b"own")]))
    assert [repository.verify(name) for name in names] == [[]] * 4
    for number, name in enumerate(names[:2]):
        repository = cvmfs.open(publisher=("catalogs", "ingest")[number % 2])
        edits = Edits(repository.view)
        edits.remove(repository.view.layout.link(name))
        edits.remove(repository.view.layout.manifest(name).parent)
        with repository.lock():
            repository.edit(edits)
    assert list(repository.names()) == names[2:]
    assert [repository.verify(name) for name in names[2:]] == [[]] * 2
    assert cvmfs.problems() == ""


def objects_of(layer):
    return layer.path / "objects"


def object_of(content):
    """The name of the object that a small file is staged as."""
    return hashlib.sha1(Codec().compress(content), usedforsecurity=False).hexdigest()


@pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed")
def test_a_published_flat_tree_is_a_root_to_change_to(cvmfs, staging):
    program = Path(shutil.which("busybox") or "").resolve()
    needed = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    libraries = {Path(word) for word in needed.split() if word.startswith("/")}
    places = {parent for path in libraries for parent in path.parents} - {Path("/")}
    top = [
        *(directory(str(place).lstrip("/")) for place in places),
        *(file(str(path).lstrip("/"), path.read_bytes(), 0o755) for path in libraries),
        file("busybox", program.read_bytes(), 0o755),
        directory("etc"),
        file("etc/motto", b"in here"),
    ]
    repository = cvmfs.open()
    name = "registry.example.org/tools/busybox:1"
    own = stage_layer(staging, "busybox", top)
    whole = stage_image(staging / "images", name, [(own, top)])
    publish(repository, ChangeSet((own,), (whole,)))
    root = cvmfs.mounts / cvmfs.name / name
    told = subprocess.run(
        ["chroot", root, "/busybox", "cat", "/etc/motto"], capture_output=True, text=True
    )
    assert told.stdout == "in here", told.stderr
