"""How a bucket is reached: ``CVMFS_UPSTREAM_STORAGE=S3,TMP,ALIAS@FILE``, and what FILE sets.

Settings mean what they mean to CernVM-FS itself, which puts its own files there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...errors import RepositoryError
from ..assignments import assignments

_FLAVORS: Mapping[str, Literal["V2", "V4", "azure"]] = {
    "awsv2": "V2",
    "awsv4": "V4",
    "azure": "azure",
}
_ACLS = frozenset(
    {
        *("private", "public-read", "public-write", "authenticated-read", "aws-exec-read"),
        *("bucket-owner-read", "bucket-owner-full-control", ""),
    }
)
_ON = frozenset({"YES", "ON", "1", "TRUE"})


@dataclass(frozen=True, slots=True)
class S3Settings:
    """A repository's place in a bucket.

    ``url`` is the bucket's, ``alias`` what the keys of the repository begin with.
    ``signature`` is how requests are signed, ``region`` part of it with V4; an empty ``acl``
    is not sent.  ``peek`` says whether an object is looked for before it is put.
    ``retries`` is how often a request is made again, ``seconds`` how long each may be silent.
    """

    url: str
    bucket: str
    alias: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    signature: Literal["V2", "V4", "azure"] = "V2"
    region: str = ""
    acl: str = "public-read"
    peek: bool = True
    connections: int = 16
    retries: int = 3
    seconds: int = 60
    proxy: str = ""
    dns_bucket: bool = True

    @classmethod
    def read(cls, upstream: str) -> S3Settings:
        """What a repository's ``CVMFS_UPSTREAM_STORAGE`` says; `RepositoryError`."""
        alias, path = _place(upstream)
        try:
            text = path.read_text(errors="surrogateescape")
        except OSError as error:
            raise RepositoryError(
                f"{path}, with the settings of S3, cannot be read: {error.strerror}",
                hint="run duccmake as the repository's owner",
            ) from None
        values = {
            key: value.replace("@fqrn@", alias).replace("@org@", alias.partition(".")[0])
            for key, value in assignments(text).items()
        }
        try:
            return cls.parse(alias, values)
        except _Wrong as error:
            raise RepositoryError(f"{path}: {error}", hint="see the settings there") from None

    @classmethod
    def parse(cls, alias: str, values: Mapping[str, str]) -> S3Settings:
        """The settings in ``values``, with CernVM-FS' defaults for what is not there."""
        needed = ("HOST", "BUCKET", "ACCESS_KEY", "SECRET_KEY")
        host, bucket, access_key, secret_key = (_needed(values, name) for name in needed)
        if port := values.get("CVMFS_S3_PORT", ""):
            host = f"{host}:{port}"
        scheme = "https" if _is_on(values, "USE_HTTPS", "off") else "http"
        dns_bucket = values.get("CVMFS_S3_DNS_BUCKETS") != "false"
        acl = values.get("CVMFS_S3_X_AMZ_ACL", "public-read")
        if acl not in _ACLS:
            raise _Wrong(f"CVMFS_S3_X_AMZ_ACL is {acl!r}, which S3 does not know")
        return cls(
            url=f"{scheme}://{bucket}.{host}" if dns_bucket else f"{scheme}://{host}/{bucket}",
            bucket=bucket,
            alias=alias,
            access_key=access_key,
            secret_key=secret_key,
            signature=_signature(values),
            region=values.get("CVMFS_S3_REGION", ""),
            acl=acl,
            peek=_is_on(values, "PEEK_BEFORE_PUT", "on"),
            connections=max(1, _number(values, "MAX_NUMBER_OF_PARALLEL_CONNECTIONS", 16)),
            retries=_number(values, "MAX_RETRIES", 3),
            seconds=max(1, _number(values, "TIMEOUT", 60)),
            proxy=values.get("CVMFS_S3_PROXY", ""),
            dns_bucket=dns_bucket,
        )


class _Wrong(Exception):
    """A setting that is missing or means nothing; nothing secret is in the message."""


def is_readable(upstream: str) -> bool:
    """Whether this user may read the credentials."""
    try:
        with _place(upstream)[1].open():
            return True
    except OSError:
        return False


def _place(upstream: str) -> tuple[str, Path]:
    kind, _, rest = upstream.partition(",")
    alias, _, path = rest.partition(",")[2].partition("@")
    if kind != "S3" or not alias or not path:
        raise RepositoryError(
            f"CVMFS_UPSTREAM_STORAGE is {upstream!r}, not S3,TMP,ALIAS@FILE",
            hint="see the repository's server.conf",
        )
    return alias, Path(path)


def _needed(values: Mapping[str, str], name: str) -> str:
    value = values.get(f"CVMFS_S3_{name}", "")
    if not value:
        raise _Wrong(f"CVMFS_S3_{name} is not set")
    return value


def _signature(values: Mapping[str, str]) -> Literal["V2", "V4", "azure"]:
    flavor = values.get("CVMFS_S3_FLAVOR")
    if flavor is None:
        return "V4" if "CVMFS_S3_REGION" in values else "V2"
    if flavor not in _FLAVORS:
        raise _Wrong(f"CVMFS_S3_FLAVOR is {flavor!r}, not awsv2, awsv4 or azure")
    return _FLAVORS[flavor]


def _is_on(values: Mapping[str, str], name: str, default: str) -> bool:
    return values.get(f"CVMFS_S3_{name}", default).upper() in _ON


def _number(values: Mapping[str, str], name: str, default: int) -> int:
    text = values.get(f"CVMFS_S3_{name}", str(default))
    if not (text.isascii() and text.isdigit()):
        raise _Wrong(f"CVMFS_S3_{name} is {text!r}, no number")
    return int(text)
