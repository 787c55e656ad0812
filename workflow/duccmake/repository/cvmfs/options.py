"""Whether a repository is one whose catalogs are written here, or only by ``cvmfs_server``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...cvmfs.storage.s3_settings import S3Settings
from .settings import ServerSettings

_PLAIN = {
    "CVMFS_HASH_ALGORITHM": ("sha1", "content is hashed by {value}"),
    "CVMFS_COMPRESSION_ALGORITHM": ("default", "content is compressed by {value}"),
    "CVMFS_EXTERNAL_DATA": ("false", "content is stored elsewhere (CVMFS_EXTERNAL_DATA)"),
    "CVMFS_VIRTUAL_DIR": ("false", "it shows its tags below .cvmfs (CVMFS_VIRTUAL_DIR)"),
    "CVMFS_GENERATE_LEGACY_BULK_CHUNKS": ("false", "large files are stored twice over"),
    "CVMFS_UPLOAD_STATS_DB": ("false", "statistics of publishing are uploaded"),
    "CVMFS_UPLOAD_STATS_PLOTS": ("false", "plots of publishing are uploaded"),
}
"""Settings by which a repository is as most are, and what is said where it is not."""

_ALSO = {"CVMFS_COMPRESSION_ALGORITHM": ("zlib",)}


def obstacles(settings: ServerSettings) -> Iterator[str]:
    """Why a repository is published by ``cvmfs_server ingest``; nothing where it need not be.

    What is looked at is all that needs no reading of the repository.  `RepositoryError`
    where the settings of a bucket cannot be read.
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


def _unusual(values: Mapping[str, str]) -> Iterator[str]:
    for key, (usual, words) in _PLAIN.items():
        value = values.get(key, "") or usual
        if value != usual and value not in _ALSO.get(key, ()):
            yield words.format(value=value)
