"""Archives of images: their files, also behind the links that ``docker save`` puts into them."""

from __future__ import annotations

import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ...errors import InvalidReference, ManifestError
from ...oci.reference import DOCKER_ARCHIVE, OCI_ARCHIVE, Reference
from .files import open_plain, reading

LAYOUT_INDEX, DOCKER_INDEX = "index.json", "manifest.json"
"""The files that make an archive an OCI layout, or one of Docker's; it may be both."""

_MAX_LINKS = 8


@contextmanager
def opened_tarball(reference: Reference) -> Iterator[Tarball]:
    """The archive of a reference, open."""
    try:
        with (
            reading(reference),
            open_plain(Path(reference.path)) as file,
            tarfile.open(fileobj=file, mode="r:*") as tar,
        ):
            yield Tarball(tar, reference.path)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ManifestError(
            f"{reference.path} is no tar archive, or damaged ({type(error).__name__})",
            image=reference.name,
            hint="see whether it was written to its end, and write it again",
        ) from None


class Tarball:
    """An open archive by the names of its files."""

    def __init__(self, tar: tarfile.TarFile, path: str) -> None:
        self.path = path
        self._tar = tar
        self._members = {posixpath.normpath(member.name): member for member in tar}

    def size(self, name: str) -> int:
        """How many bytes a file has."""
        return self._member(name).size

    def open(self, name: str) -> IO[bytes]:
        """The content of a file, from the archive as it is open."""
        content = self._tar.extractfile(self._member(name))
        assert content is not None
        return content

    def _member(self, name: str) -> tarfile.TarInfo:
        path = posixpath.normpath(name)
        for _ in range(_MAX_LINKS):
            member = self._members.get(path)
            if member is None:
                break
            if member.isreg():
                return member
            if member.issym():
                path = posixpath.normpath(posixpath.join(posixpath.dirname(path), member.linkname))
            elif member.islnk():
                path = posixpath.normpath(member.linkname)
            else:
                break
        raise ManifestError(f"the archive {self.path} has no file {name[:200]!r}{self._hint(name)}")

    def _hint(self, name: str) -> str:
        for index, other, scheme in (
            (LAYOUT_INDEX, DOCKER_INDEX, DOCKER_ARCHIVE),
            (DOCKER_INDEX, LAYOUT_INDEX, OCI_ARCHIVE),
        ):
            if name == index and other in self._members:
                return f", but {other}: it has to be named as {scheme}:"
        return ""


@dataclass(frozen=True, slots=True)
class FullName:
    """An image's name as Docker completes it: ``app`` is ``docker.io/library/app``."""

    repository: str
    tag: str


def full_name(repository: str, tag: str) -> FullName:
    """Complete a name; what is none stays as it is."""
    try:
        reference = Reference.parse(f"{repository}:{tag}", default_registry="docker.io")
    except InvalidReference:
        return FullName(repository, tag)
    return FullName(f"{reference.registry}/{reference.repository}", tag)
