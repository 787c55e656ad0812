"""A repository that is read over HTTP: on a machine that does not publish it, and whose it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from duccmake.cvmfs.names import Kind
from duccmake.cvmfs.objects import Objects
from duccmake.cvmfs.storage import PUBLISHED, WHITELIST
from duccmake.cvmfs.trust import Trust
from duccmake.errors import RepositoryError
from duccmake.repository.cvmfs.backend import CvmfsRepository
from support.cvmfs_generated import Staged
from support.cvmfs_repositories import served
from support.staged_trees import NAME, publish, stage

REPOSITORY = "unpacked.example.org"


class Signed(Staged):
    """A repository's files, signed as CernVM-FS does it."""

    def __init__(self, base: Path) -> None:
        base.mkdir()
        super().__init__(Objects(base))
        self.master, self.own = (rsa.generate_private_key(65537, 2048) for _ in range(2))
        self.key = base.parent / f"{base.name}.pub"
        self.key.write_bytes(public_pem(self.master))
        self.certificate = certificate(self.own)
        name = self._objects.put(
            self.certificate.public_bytes(serialization.Encoding.PEM), Kind.CERTIFICATE
        )
        self.files = {
            WHITELIST: self.whitelist(),
            PUBLISHED: signed(self.manifest(name.hex()), self.sign),
        }

    def file(self, name: str) -> bytes:
        return self.files[name]

    def whitelist(self, days: float = 30, name: str = REPOSITORY) -> bytes:
        ends = datetime.now(UTC) + timedelta(days=days)
        fingerprint = self.certificate.fingerprint(hashes.SHA1()).hex(":").upper()
        lines = f"20200101000000\nE{ends:%Y%m%d%H%M%S}\nN{name}\n{fingerprint} # ours\n"
        return signed(lines.encode(), self.sign_bare)

    @staticmethod
    def manifest(certificate: str, name: str = REPOSITORY) -> bytes:
        return f"C{'0' * 40}\nB1\nS7\nN{name}\nX{certificate}\n".encode()

    def sign(self, text: bytes) -> bytes:
        return self.own.sign(text, padding.PKCS1v15(), hashes.SHA1())

    def sign_bare(self, text: bytes) -> bytes:
        """The text in a block of PKCS #1 of type 1, without what says how it was hashed."""
        numbers = self.master.private_numbers()
        modulus, size = numbers.public_numbers.n, self.master.key_size // 8
        block = b"\0\1" + b"\xff" * (size - len(text) - 3) + b"\0" + text
        return pow(int.from_bytes(block), numbers.d, modulus).to_bytes(size)


def signed(lines: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    text = sha1(lines).hexdigest().encode()
    return lines + b"--\n" + text + b"\n" + sign(text)


def public_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def certificate(key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, REPOSITORY)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now)
    return builder.sign(key, hashes.SHA256())


@pytest.fixture
def repository(tmp_path: Path) -> Signed:
    return Signed(tmp_path / "objects")


def check(repository: Signed, name: str = REPOSITORY) -> None:
    Trust(name, repository.key).check(repository, repository.files[PUBLISHED])


def test_what_the_keys_of_a_repository_have_signed_is_taken(repository):
    check(repository)


@pytest.mark.parametrize("file", [WHITELIST, PUBLISHED])
def test_no_byte_of_what_is_signed_can_be_another(repository, file):
    whole = repository.files[file]
    for at in range(0, len(whole), 7):
        repository.files[file] = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        with pytest.raises(RepositoryError, match="not to be trusted"):
            check(repository)
        repository.files[file] = whole[:at]
        with pytest.raises(RepositoryError, match="not to be trusted"):
            check(repository)


def by_another_master(repository: Signed, other: Signed) -> None:
    repository.files[WHITELIST] = other.files[WHITELIST]


def by_another_certificate(repository: Signed, other: Signed) -> None:
    name = repository._objects.put(
        other.certificate.public_bytes(serialization.Encoding.PEM), Kind.CERTIFICATE
    )
    repository.files[PUBLISHED] = signed(repository.manifest(name.hex()), other.sign)


def by_a_key_that_is_not_its_certificates(repository: Signed, other: Signed) -> None:
    lines = repository.files[PUBLISHED].partition(b"--\n")[0]
    repository.files[PUBLISHED] = signed(lines, other.sign)


def of_another_repository(repository: Signed, other: Signed) -> None:
    lines = repository.files[PUBLISHED].partition(b"--\n")[0]
    lines = lines.replace(REPOSITORY.encode(), b"other.example.org")
    repository.files[PUBLISHED] = signed(lines, repository.sign)


def by_a_whitelist_of_another_repository(repository: Signed, other: Signed) -> None:
    repository.files[WHITELIST] = repository.whitelist(name="other.example.org")


def by_a_whitelist_that_has_expired(repository: Signed, other: Signed) -> None:
    repository.files[WHITELIST] = repository.whitelist(days=-0.01)


def without_a_certificate(repository: Signed, other: Signed) -> None:
    repository.files[PUBLISHED] = signed(repository.manifest(""), repository.sign)


@pytest.mark.parametrize(
    "forge",
    [
        by_another_master,
        by_another_certificate,
        by_a_key_that_is_not_its_certificates,
        of_another_repository,
        by_a_whitelist_of_another_repository,
        by_a_whitelist_that_has_expired,
        without_a_certificate,
    ],
)
def test_what_others_have_signed_is_refused(repository, tmp_path, forge):
    forge(repository, Signed(tmp_path / "other"))
    with pytest.raises(RepositoryError, match="not to be trusted"):
        check(repository)


@pytest.mark.parametrize("key", [None, b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n"])
def test_a_key_that_is_none_is_named(repository, key):
    repository.key.unlink()
    if key is not None:
        repository.key.write_bytes(key)
    with pytest.raises(RepositoryError, match=re.escape(str(repository.key))):
        check(repository)


def test_a_machine_that_does_not_publish_reads_over_http(cvmfs, staging, tmp_path):
    published = cvmfs.open(publisher="catalogs")
    publish(published, stage(staging))
    elsewhere = CvmfsRepository(
        cvmfs.name,
        mounts=tmp_path / "nowhere",
        server_config=tmp_path / "nowhere",
        state=tmp_path / "state",
        url=cvmfs.url,
        public_key=Path(f"/etc/cvmfs/keys/{cvmfs.name}.pub") if cvmfs.real else None,
    )
    assert list(elsewhere.names()) == [NAME]
    assert elsewhere.record(NAME) == published.record(NAME) is not None
    assert elsewhere.verify(NAME) == elsewhere.verify(NAME, content=False) == []
    assert list(elsewhere.remarks()) == []
    assert not elsewhere.is_locked()
    with pytest.raises(RepositoryError, match="this machine does not publish"), elsewhere.lock():
        pass
    assert not (tmp_path / "state").exists()


def test_a_web_server_that_has_no_repository_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    url = served(tmp_path / "empty")
    elsewhere = CvmfsRepository(
        REPOSITORY, server_config=tmp_path, state=tmp_path / "state", url=url
    )
    with pytest.raises(RepositoryError, match=re.escape(url)):
        list(elsewhere.names())
