"""``.cvmfspublished``: what is read of it, and what is kept of what is not known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duccmake.cvmfs.manifest import Manifest
from duccmake.errors import RepositoryError

ROOT = "4c2ca8a97a4ed01d09b36d6df6fb8d0ec1e5e2d3"
UNSIGNED = (
    f"C{ROOT}\nB16384\nRd41d8cd98f00b204e9800998ecf8427e\nD240\nS7\nGyes\nAno\n"
    "Nsoftware.example.org\nX1111111111111111111111111111111111111111\n"
    "H2222222222222222222222222222222222222222\nT1700000000\nZsomething new\n"
).encode()
SIGNED = UNSIGNED + b"--\n" + b"3" * 40 + b"\n" + bytes(range(256))

values = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=20)


def test_a_signed_manifest_is_read_and_its_lines_stay_as_they_are() -> None:
    manifest = Manifest.parse(SIGNED)
    assert manifest.root == bytes.fromhex(ROOT)
    assert (manifest.root_size, manifest.revision) == (16384, 7)
    assert manifest.get("N") == "software.example.org"
    assert manifest.get("Q") == ""
    assert manifest.unsigned() == UNSIGNED
    assert Manifest.parse(UNSIGNED) == manifest


def test_changed_letters_stay_in_their_place_and_new_ones_come_last() -> None:
    manifest = Manifest.parse(SIGNED).changed(S="8", Q="new")
    assert manifest.unsigned() == UNSIGNED.replace(b"S7", b"S8") + b"Qnew\n"
    assert manifest.revision == 8


@given(st.dictionaries(st.sampled_from("ADGHLMNPRTXYZ"), values))
def test_whatever_stands_there_is_kept(more: dict[str, str]) -> None:
    manifest = Manifest.parse(f"C{ROOT}\nB1\nS1\n".encode()).changed(**more)
    assert Manifest.parse(manifest.unsigned()) == manifest
    assert all(manifest.get(letter) == value for letter, value in more.items())


@pytest.mark.parametrize(
    ("damaged", "match"),
    [
        (b"", "no number"),
        (b"\xff\n--\n", "no text"),
        (SIGNED.replace(b"S7", b"Sseven"), "no number"),
        (SIGNED.replace(b"B16384\n", b""), "no number"),
        (SIGNED.replace(b"S7\n", b"S7\nS8\n"), "twice"),
        (SIGNED.replace(ROOT.encode(), b"ab"), "no SHA-1"),
        (SIGNED.replace(ROOT.encode(), ROOT.encode() + b"-shake128"), "CVMFS_HASH_ALGORITHM"),
    ],
)
def test_what_is_no_manifest_is_refused(damaged: bytes, match: str) -> None:
    with pytest.raises(RepositoryError, match=match):
        Manifest.parse(damaged)
