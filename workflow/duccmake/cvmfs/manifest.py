"""``.cvmfspublished``: what a repository's newest revision is.

Lines, each a letter and a value, up to a line ``--``; behind it the hash of these
lines and a signature, which `cvmfs_swissknife sign` adds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import RepositoryError

_END = b"--\n"
_HEX = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The lines of a manifest in their order, unknown letters among them.

    ``C`` is the hash of the root catalog and ``B`` its size uncompressed, ``S`` the
    revision, ``D`` the TTL in seconds, ``T`` the time of publishing, ``N`` the
    repository's name, ``H`` the tags' database, ``X`` the certificate.
    """

    fields: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, published: bytes) -> Manifest:
        """Read a manifest, signed or not; `RepositoryError` where it is none."""
        unsigned, _, _ = published.partition(_END)
        try:
            lines = unsigned.decode().split("\n")
        except UnicodeDecodeError:
            raise _damaged("it is no text") from None
        manifest = cls(tuple((line[0], line[1:]) for line in lines if line))
        letters = [letter for letter, _ in manifest.fields]
        if len(set(letters)) < len(letters):
            raise _damaged(f"a letter stands twice in {''.join(letters)!r}")
        for number in "SB":
            if not (value := manifest.get(number)).isascii() or not value.isdigit():
                raise _damaged(f"{number} is {value!r}, no number")
        if _HEX.fullmatch(manifest.get("C")) is None:
            raise RepositoryError(
                f"the repository's root catalog is called {manifest.get('C')!r}, no SHA-1",
                hint="duccmake publishes into repositories with CVMFS_HASH_ALGORITHM=sha1",
            )
        return manifest

    def get(self, letter: str) -> str:
        """The value of a letter; empty where it is not there."""
        return dict(self.fields).get(letter, "")

    @property
    def root(self) -> bytes:
        """The hash of the root catalog."""
        return bytes.fromhex(self.get("C"))

    @property
    def root_size(self) -> int:
        """The size of the root catalog, uncompressed."""
        return int(self.get("B"))

    @property
    def revision(self) -> int:
        """The number of the revision."""
        return int(self.get("S"))

    def changed(self, **values: str) -> Manifest:
        """The same with other values of letters; new ones come last."""
        kept = tuple((letter, values.pop(letter, value)) for letter, value in self.fields)
        return Manifest(kept + tuple(values.items()))

    def unsigned(self) -> bytes:
        """The lines that are signed, without the end mark."""
        return "".join(f"{letter}{value}\n" for letter, value in self.fields).encode()


def _damaged(found: str) -> RepositoryError:
    return RepositoryError(
        f"the repository's .cvmfspublished is damaged: {found}",
        hint="have the repository checked: cvmfs_server check",
    )
