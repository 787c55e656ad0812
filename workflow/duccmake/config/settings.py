"""The sections of the configuration, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..layer.limits import UnpackLimits
from ..oci.reference import Reference

Policy = Literal["keep", "schedule", "prune"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Retention of the images whose names a glob matches: the newest tags, the last days.

    ``keep_last`` counts for each repository.  An image stays for either reason; 0
    gives none.
    """

    images: str
    keep_last: int = 0
    keep_days: float = 0.0


@dataclass(frozen=True, slots=True)
class RemovalSettings:
    """When images leave; ``confirm`` is in seconds, ``batch`` counts flat trees and layers."""

    policy: Policy = "keep"
    confirm: float = 86400.0
    grace_days: float = 30.0
    max_percent: float = 10.0
    batch: int = 50
    retention: tuple[Rule, ...] = ()
    pinned: tuple[str, ...] = ()
    cvmfs_gc: bool = False

    @property
    def grace(self) -> float:
        """The time of grace in seconds."""
        return self.grace_days * 86400.0


@dataclass(frozen=True, slots=True)
class HistorySettings:
    """How many manifests stay reachable by digest that a tag has left."""

    keep: int = 0


@dataclass(frozen=True, slots=True)
class ResolveSettings:
    """How tags are polled: for ``max_age`` seconds an answer is believed.

    Where ``only`` names images, nothing is asked about others that are known.
    """

    max_age: float = 0.0
    connections: int = 32
    only: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True)
class SignatureSettings:
    """Whose images may be published: a policy's file or its members; None lets all be.

    ``lookaside`` are addresses of simple signing's signatures by scope.  ``unnamed``: whether
    signatures count that name no image.  ``keep_referrers`` are globs over types of artifacts.
    """

    policy: Path | Mapping[str, Any] | None = None
    lookaside: Mapping[str, str] = field(default_factory=dict)
    unnamed: Literal["refuse", "accept"] = "refuse"
    keep_referrers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VerifySettings:
    """How it is verified what is published: a job reads ``bytes_per_second`` at most."""

    bytes_per_second: int = 0


@dataclass(frozen=True, slots=True)
class Selection:
    """What ``snakemake verify`` and ``snakemake repair`` are about.

    ``images`` are names and globs over names, all where there is none.  ``sample`` is the share
    of trees that is looked at, drawn by ``seed`` if that is not 0; with ``content`` files are read.
    """

    images: tuple[str, ...] = ()
    content: bool = False
    sample: float = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """How often the watcher polls, and after how many seconds it tries again what failed."""

    interval: float = 600.0
    retry: float = 15.0


@dataclass(frozen=True, slots=True)
class WebhookSecrets:
    """Names of the environment variables that hold each sender's secret; empty is none."""

    harbor: str = ""
    distribution: str = ""
    gitlab: str = ""
    dockerhub: str = ""
    quay: str = ""
    azure: str = ""
    ghcr: str = ""


@dataclass(frozen=True, slots=True)
class ConvertToken:
    """A secret, in the environment variable ``token_env``, and globs over the images it opens."""

    token_env: str
    images: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    """Tokens that are believed: who issues them, for whom, with which claims (globs over them).

    They may ask for the ``images`` that these globs match.  ``keys_url`` is where the issuer's
    keys are, if it does not say so itself.
    """

    issuer: str
    audience: str
    claims: Mapping[str, tuple[str, ...]]
    images: tuple[str, ...] = ("*",)
    keys_url: str = ""


@dataclass(frozen=True, slots=True)
class ConvertSettings:
    """Who may ask for conversions, and by which address (``url``) the service is reached."""

    url: str = ""
    requests_a_minute: int = 60
    tokens: tuple[ConvertToken, ...] = ()
    issuers: tuple[TrustedIssuer, ...] = ()


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Where notifications are heard, and left for the watcher.

    ``listen`` is ``HOST:PORT`` or ``unix:PATH``.  ``aliases`` are registries' hosts as
    senders name them, and as the wish list does.
    """

    listen: str = "127.0.0.1:8484"
    spool: Path = Path("results/notices")
    max_bytes: int = 1024**2
    secrets: WebhookSecrets = field(default_factory=WebhookSecrets)
    aliases: Mapping[str, str] = field(default_factory=dict)
    convert: ConvertSettings = field(default_factory=ConvertSettings)


@dataclass(frozen=True, slots=True)
class FlatSettings:
    """What flat trees get beyond the image.

    ``mount_points`` are absolute and normalised; ``fix_permissions``: everybody may read and run.
    """

    mount_points: tuple[str, ...] = ("/cvmfs", "/srv")
    fix_permissions: bool = False


@dataclass(frozen=True, slots=True)
class Limits(UnpackLimits):
    """What a layer may cost, and a run at a time: images in one DAG, bytes staged, downloads."""

    run_images: int = 500
    staging_bytes: int = 40 * 1024**3
    downloads: int = 8


@dataclass(frozen=True, slots=True)
class ThinSettings:
    """Whether thin images are pushed; for ``max_age`` seconds one that was seen is believed in."""

    push: Literal["auto", "always", "never"] = "auto"
    max_age: float = 86400.0
