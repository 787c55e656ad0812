"""Whether a repository is one whose catalogs are written here, or only by ``cvmfs_server``."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from ...cvmfs.catalog import UnknownFormat
from ...cvmfs.edited import check_revision
from ...cvmfs.storage.s3_settings import S3Settings
from .catalogs import standing
from .revision_view import RevisionView
from .settings import ServerSettings

_PLAIN = {
    "CVMFS_HASH_ALGORITHM": ("sha1", "content is hashed by {value}"),
    "CVMFS_COMPRESSION_ALGORITHM": ("default", "content is compressed by {value}"),
    "CVMFS_EXTERNAL_DATA": ("false", "content is stored elsewhere (CVMFS_EXTERNAL_DATA)"),
    "CVMFS_VIRTUAL_DIR": ("false", "it shows its tags below .cvmfs (CVMFS_VIRTUAL_DIR)"),
    "CVMFS_GENERATE_LEGACY_BULK_CHUNKS": ("false", "large files are stored twice over"),
    "CVMFS_ENFORCE_LIMITS": ("false", "files and catalogs have limits (CVMFS_ENFORCE_LIMITS)"),
    "CVMFS_UPLOAD_STATS_DB": ("false", "statistics of publishing are uploaded"),
    "CVMFS_UPLOAD_STATS_PLOTS": ("false", "plots of publishing are uploaded"),
}
"""Settings by which a repository is as most are, and what is said where it is not."""

HOOKS = Path("/etc/cvmfs/cvmfs_server_hooks.sh")
"""What an administrator has cvmfs_server do before and after it publishes."""

KNOWN = "2.12."
"""How versions of CernVM-FS begin with which publishing by catalogs was tried."""

DIRTAB = b"/.cvmfsdirtab"
"""The file by which ``cvmfs_server publish`` begins catalogs in directories."""

_ALSO = {"CVMFS_COMPRESSION_ALGORITHM": ("zlib",)}


def obstacles(settings: ServerSettings) -> Iterator[str]:
    """Why a repository is published by ``cvmfs_server ingest``; nothing where it need not be.

    What is looked at is all that needs no reading of the repository; see `unknown_format`.
    `RepositoryError` where the settings of a bucket cannot be read.
    """
    if settings.gateway:
        yield "it is published through a gateway"
    elif settings.upstream.startswith("S3,"):
        if S3Settings.read(settings.upstream).signature == "azure":
            yield "its storage is Azure's (CVMFS_S3_FLAVOR)"
    elif not settings.upstream.startswith("local,"):
        yield f"its storage is {settings.upstream.partition(',')[0] or 'not named'}"
    yield from _unusual(settings.values)
    if (settings.spool / "checkout").exists():
        yield "an old revision is checked out there"
    if HOOKS.exists():
        yield f"{HOOKS} has cvmfs_server do more than publish"
    program = shutil.which("cvmfs_swissknife")
    version = _version(program) if program else ""
    if not version.startswith(KNOWN):
        yield f"cvmfs_swissknife is {version or 'not there'}, and {KNOWN}x is known"


def unknown_format(view: RevisionView) -> str:
    """Why the root catalog cannot be changed here; empty where it can."""
    try:
        check_revision(view.revision.catalog(b""), "its root catalog", b"")
    except UnknownFormat as error:
        return error.found
    return ""


def remarks(settings: ServerSettings, view: RevisionView) -> Iterator[str]:
    """What an operator should change in how a repository is set up, for people."""
    name, values = settings.name, settings.values
    is_tagged = settings.is_on("CVMFS_AUTO_TAG")
    if (
        settings.is_on("CVMFS_GARBAGE_COLLECTION")
        and is_tagged
        and not values.get("CVMFS_AUTO_TAG_TIMESPAN")
    ):
        yield (
            f"{name}: each revision is tagged for ever, and garbage collection frees nothing; "
            "set CVMFS_AUTO_TAG_TIMESPAN, to '2 weeks ago' for example, in its server.conf"
        )
    if pattern := _reaching(view):
        yield (
            f"{name}: {pattern!r} in its .cvmfsdirtab has cvmfs_server put files into images; "
            "change it so that it matches nothing of what duccmake publishes"
        )


def _reaching(view: RevisionView) -> str:
    """The first pattern of the repository's dirtab that directories of images may match."""
    try:
        text = view.revision.read(DIRTAB).decode(errors="backslashreplace")
    except FileNotFoundError:
        return ""
    lines = [line.strip() for line in text.splitlines()]
    bases = [os.fsdecode(view.at(directory)) for directory in standing(view.layout)]
    return next((line for line in lines if any(_is_below(line, base) for base in bases)), "")


def _is_below(pattern: str, base: str) -> bool:
    """Whether a pattern may match what is below a directory; no line that excludes does."""
    parts, above = pattern.strip("/").split("/"), base.strip("/").split("/")
    return (
        pattern.startswith("/")
        and len(parts) > len(above)
        and all(map(fnmatch.fnmatchcase, above, parts))
    )


@cache
def _version(program: str) -> str:
    """What a program says its version is; empty where it says nothing."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _unusual(values: Mapping[str, str]) -> Iterator[str]:
    for key, (usual, words) in _PLAIN.items():
        value = values.get(key, "") or usual
        if value != usual and value not in _ALSO.get(key, ()):
            yield words.format(value=value)
