"""Images of several platforms in a repository: a name each, and one that leads to them."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from duccmake.oci.reference import Platform, Reference
from duccmake.repository.edits import Edits
from duccmake.repository.inventory import survey
from duccmake.repository.model import ANY_VARIANT
from duccmake.repository.removal import withdraw
from support import staged_trees as make
from support.cvmfs_repositories import both, repository_for
from support.on_disk import OnDisk
from support.staged_trees import NAME, directory, file, publish, stage

PLATFORMS = tuple(map(Platform.parse, ("linux/amd64", "linux/arm64", "linux/arm/v7")))
LABELS = tuple(platform.label for platform in PLATFORMS)


class Case:
    """A repository, and images of one name for several platforms."""

    def __init__(self, repository, staging):
        self.repository = repository
        self.layout = OnDisk(repository.path)
        self._staging = staging

    def publish(self, *platforms, variants=LABELS, name=NAME):
        """Publish the image for some platforms, wished for on ``variants``."""
        changes = [self.staged(platform, variants, name) for platform in platforms]
        publish(self.repository, *changes)
        return [change.images[0] for change in changes]

    def staged(self, platform, variants, name=NAME):
        path = Reference.parse(name).name_on(platform) if variants else name
        top = [directory("."), file("machine", str(platform).encode())]
        changes = stage(self._staging, path, top, config=f"config for {platform}")
        [image] = changes.images
        image = replace(image, platform=platform, variants=tuple(variants))
        return replace(changes, images=(image,))

    def withdraw(self, *names):
        with self.repository.lock():
            edits = Edits(self.repository.view)
            why = dict.fromkeys(names, "tests")
            withdraw(edits, why, survey(self.repository.view), 1000.0)
            self.repository.edit(edits)

    def link(self, name=NAME):
        return str(self.layout.link(name).readlink())

    def machine(self, path=NAME):
        return (self.repository.path / path / "machine").read_text()


@pytest.fixture
def here(tmp_path):
    staging = tmp_path / "staging"
    staging.mkdir()
    return Case(make.open_repository(tmp_path), staging)


def path_on(label, name=NAME):
    return f".multiarch/{label}/{name}"


# --- the directory backend ----------------------------------------------


def test_each_platform_is_an_image_of_its_own(here):
    here.publish(*PLATFORMS)
    assert list(here.repository.names()) == sorted(map(path_on, LABELS))
    for platform in PLATFORMS:
        path = path_on(platform.label)
        assert here.machine(path) == str(platform)
        record = here.repository.record(path)
        assert record and record.platform == platform
        assert here.repository.verify(path) == []


def test_the_name_leads_to_the_first_platform_that_is_there(here):
    here.publish(PLATFORMS[2])
    assert (here.repository.variant(NAME), here.machine()) == ("arm-v7", "linux/arm/v7")
    here.publish(PLATFORMS[1])
    assert (here.repository.variant(NAME), here.machine()) == ("arm64", "linux/arm64")
    here.publish(PLATFORMS[0])
    assert (here.repository.variant(NAME), here.machine()) == ("amd64", "linux/amd64")


def test_an_image_of_one_platform_gives_its_name_to_several_and_takes_it_back(here):
    [single] = here.publish(PLATFORMS[0], variants=())
    assert here.repository.variant(NAME) == ""
    here.publish(*PLATFORMS)
    assert here.repository.record(NAME) is None
    assert NAME not in list(here.repository.names())
    here.publish(PLATFORMS[0], variants=())
    assert here.repository.variant(NAME) == ""
    assert here.link() == here.layout.link_target(NAME, single.config)
    for path in (NAME, *map(path_on, LABELS)):
        assert here.repository.verify(path) == []


def test_what_is_prepared_is_named_without_being_staged(here):
    here.publish(PLATFORMS[0], variants=())
    changes = here.staged(PLATFORMS[0], LABELS)
    [image] = changes.images
    assert here.repository.has_flat(image.config, image.layers)
    publish(here.repository, replace(changes, layers=(), images=(replace(image, path=None),)))
    assert here.machine(path_on("amd64")) == "linux/amd64"
    assert here.repository.verify(path_on("amd64")) == []


def test_a_flat_tree_of_other_layers_is_not_what_is_wished_for(here):
    [image] = here.publish(PLATFORMS[0])
    assert not here.repository.has_flat(image.config, image.layers[:1])
    assert not here.repository.has_flat(make.digest_of("another"), image.layers)


def test_the_name_leads_to_another_platform_when_its_own_leaves(here):
    here.publish(*PLATFORMS)
    here.withdraw(path_on("amd64"))
    assert here.machine() == "linux/arm/v7" or here.machine() == "linux/arm64"
    assert list(here.repository.names()) == [path_on("arm-v7"), path_on("arm64")]


def test_the_name_leaves_with_the_last_platform(here):
    here.publish(*PLATFORMS)
    here.withdraw(*map(path_on, LABELS))
    assert not os.path.lexists(here.layout.link(NAME))
    assert list(here.repository.names()) == []


def test_platforms_that_leave_do_not_take_the_name_of_an_image_of_one(here):
    here.publish(*PLATFORMS)
    here.publish(PLATFORMS[0], variants=())
    here.withdraw(*map(path_on, LABELS))
    assert here.machine() == "linux/amd64"
    assert here.repository.verify(NAME) == []


# --- CernVM-FS ----------------------------------------------------------


@pytest.fixture(params=both())
def cvmfs(request, tmp_path, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("cvmfs_server needs root")
    staging = tmp_path / "staging"
    staging.mkdir()
    made = repository_for(request.param, tmp_path, monkeypatch)
    return made, Case(made.open(), staging)


def test_on_cernvm_fs_the_name_leads_each_machine_to_its_own(cvmfs):
    made, here = cvmfs
    here.publish(PLATFORMS[0], variants=())
    here.publish(*PLATFORMS)
    assert here.repository.variant(NAME) == ANY_VARIANT
    for machine, label in (("x86_64", "amd64"), ("aarch64", "arm64"), ("armv7l", "arm-v7")):
        assert str((here.layout.multiarch / machine).readlink()) == label
    assert here.link() == f"../../.multiarch/$(CVMFS_ARCH:-amd64)/{NAME}"
    for label in LABELS:
        assert here.repository.verify(path_on(label)) == []
    assert here.repository.record(NAME) is None
    assert made.problems() == ""


@pytest.mark.parametrize("cvmfs", both()[1:], indirect=True)
def test_a_client_of_cernvm_fs_finds_its_own_platform(cvmfs, tmp_path):
    made, here = cvmfs
    here.publish(*PLATFORMS)
    label = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    with client(made, tmp_path) as mounted:
        assert (mounted / NAME / "machine").read_text() == f"linux/{label}"


@contextlib.contextmanager
def client(made, base):
    """The repository as a machine that only reads it has it."""
    mount, cache, config = base / "mount", base / "cache", base / "client.conf"
    mount.mkdir()
    cache.mkdir()
    server = Path("/etc/cvmfs/repositories.d") / made.name / "server.conf"
    [url] = re.findall(r"^CVMFS_STRATUM0=(.+)$", server.read_text(), re.MULTILINE)
    config.write_text(
        f"CVMFS_SERVER_URL={url}\n"
        f"CVMFS_HTTP_PROXY=DIRECT\nCVMFS_CACHE_BASE={cache}\nCVMFS_RELOAD_SOCKETS={cache}\n"
        f"CVMFS_PUBLIC_KEY=/etc/cvmfs/keys/{made.name}.pub\nCVMFS_CLAIM_OWNERSHIP=yes\n"
    )
    done = subprocess.run(
        ["cvmfs2", "-o", f"config={config}", made.name, str(mount)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_on_cernvm_fs_the_name_stays_until_the_last_platform_leaves(cvmfs):
    made, here = cvmfs
    here.publish(*PLATFORMS[:2])
    here.withdraw(path_on("amd64"))
    assert here.repository.variant(NAME) == ANY_VARIANT
    here.withdraw(path_on("arm64"))
    assert not os.path.lexists(here.layout.link(NAME))
    assert made.problems() == ""
