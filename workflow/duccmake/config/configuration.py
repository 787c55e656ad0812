"""The configuration: what the workflow's ``config`` says, checked once and then trusted.

Keys, their defaults and what they mean stand in ``workflow/duccmake/config/config.schema.yaml``
and, for people, in ``config/README.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigError, InvalidReference
from ..oci.reference import Platform, Reference
from ..products import Product, in_order
from ..recipe.sources.location import Source
from ..registry.settings import RegistrySettings
from ..repository.settings import BatchSettings, RepositorySettings, ShareSettings
from ..state.pauses import Pauses
from ..workspace.event_log import EventSettings
from .mistakes import InvalidConfig, Mistake, dotted
from .settings import (
    ConvertSettings,
    ConvertToken,
    FlatSettings,
    HistorySettings,
    Limits,
    RemovalSettings,
    ResolveSettings,
    Rule,
    Selection,
    SignatureSettings,
    ThinSettings,
    TrustedIssuer,
    VerifySettings,
    WatchSettings,
    WebhookSecrets,
    WebhookSettings,
)

if TYPE_CHECKING:
    from ..signatures.policy import Policy


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration; a default each, with paths from the working directory.

    ``registries`` is keyed by `Reference.host`, where the registry's API answers.
    """

    recipe: tuple[Source, ...] = (Source.parse("config/recipe.yaml", Path()),)
    repository: RepositorySettings = field(default_factory=RepositorySettings)
    products: tuple[Product, ...] = tuple(Product)
    platforms: tuple[Platform, ...] = (Platform("linux", "amd64"),)
    registries: Mapping[str, RegistrySettings] = field(default_factory=dict)
    resolve: ResolveSettings = field(default_factory=ResolveSettings)
    limits: Limits = field(default_factory=Limits)
    flat: FlatSettings = field(default_factory=FlatSettings)
    thin: ThinSettings = field(default_factory=ThinSettings)
    removal: RemovalSettings = field(default_factory=RemovalSettings)
    force_removal: bool = False
    history: HistorySettings = field(default_factory=HistorySettings)
    image: str = ""
    digest: str = ""
    anew: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    content: bool = False
    sample: float = 1
    seed: int = 0
    verify: VerifySettings = field(default_factory=VerifySettings)
    scope: str = "pending"
    adopt: bool = True
    private: Literal["allow", "refuse"] = "allow"
    signatures: SignatureSettings = field(default_factory=SignatureSettings)
    retry: Pauses = field(default_factory=Pauses)
    retry_failed: bool = False
    watch: WatchSettings = field(default_factory=WatchSettings)
    webhook: WebhookSettings = field(default_factory=WebhookSettings)
    events: EventSettings = field(default_factory=EventSettings)

    @property
    def selection(self) -> Selection:
        """What is verified, or mended."""
        return Selection(self.images, self.content, self.sample, self.seed)

    @classmethod
    def parse(cls, members: Mapping[str, Any], *, workdir: Path) -> Config:
        """Check ``members``, as Snakemake or YAML give them; paths count from ``workdir``.

        A text stands for a list of one, and for the number that it spells; null
        stands for the default.  Raises `InvalidConfig` with every mistake.
        """
        from .schema import check  # slow to import

        plain, mistakes = check(members)
        config = _build(plain, workdir, mistakes)
        _check_policy(config, workdir, mistakes)
        if mistakes:
            raise InvalidConfig(mistakes)
        return config

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any], *, workdir: Path) -> Config:
        """The configuration of members that were parsed before, as `as_plain` has them."""
        return _build(plain, workdir, [])


# From what the schema let pass to values.


def _build(plain: Mapping[str, Any], workdir: Path, mistakes: list[Mistake]) -> Config:
    default = Config()
    return Config(
        recipe=_sources(plain.get("recipe", ["config/recipe.yaml"]), workdir, mistakes),
        repository=_repository(plain.get("repository", {}), workdir, mistakes),
        products=_products(plain.get("products", default.products), mistakes),
        platforms=_platforms(plain.get("platforms", default.platforms), mistakes),
        registries=_registries(plain.get("registries", {}), workdir, mistakes),
        resolve=_resolve(plain.get("resolve", {}), mistakes),
        limits=Limits(**plain.get("limits", {})),
        flat=_flat(plain.get("flat", {}), mistakes),
        removal=_removal(plain.get("removal", {})),
        force_removal=plain.get("force_removal", default.force_removal),
        history=HistorySettings(**plain.get("history", {})),
        image=plain.get("image", default.image),
        digest=plain.get("digest", default.digest),
        thin=ThinSettings(**plain.get("thin", {})),
        anew=tuple(plain.get("anew", default.anew)),
        images=tuple(plain.get("images", default.images)),
        content=plain.get("content", default.content),
        sample=plain.get("sample", default.sample),
        seed=plain.get("seed", default.seed),
        verify=VerifySettings(**plain.get("verify", {})),
        scope=plain.get("scope", default.scope),
        adopt=plain.get("adopt", default.adopt),
        private=plain.get("private", default.private),
        signatures=_signatures(plain.get("signatures", {}), workdir),
        retry=Pauses(**plain.get("retry", {})),
        retry_failed=plain.get("retry_failed", default.retry_failed),
        watch=WatchSettings(**plain.get("watch", {})),
        webhook=_webhook(plain.get("webhook", {}), workdir),
        events=_events(plain.get("events", {}), workdir),
    )


def _sources(
    values: Sequence[str | Mapping[str, Any]], workdir: Path, mistakes: list[Mistake]
) -> tuple[Source, ...]:
    sources = []
    for at, value in enumerate(values):
        key = f"recipe[{at}]"
        try:
            sources.append(Source.parse(value, workdir))
        except ConfigError as error:
            mistakes.append(Mistake(key, error.found, error.hint))
        if isinstance(value, Mapping) and bool(value.get("username_env")) != bool(
            value.get("password_env")
        ):
            found = "one of 'username_env' and 'password_env' is missing"
            mistakes.append(Mistake(key, found, "name both"))
    return tuple(sources)


def _path(path: str | Path, workdir: Path) -> Path:
    try:
        return workdir / Path(path).expanduser()
    except RuntimeError:  # nobody of that name has a home: a folder that begins with "~"
        return workdir / path


def _repository(
    members: Mapping[str, Any], workdir: Path, mistakes: list[Mistake]
) -> RepositorySettings:
    default = RepositorySettings()
    given = {"root": default.root, **members}
    paths = {
        name: _path(given[name], workdir)
        for name in ("root", "clients_root", "mounts", "server_config", "state", "public_key")
        if given.get(name) is not None
    }
    batch = BatchSettings(**members.get("batch", {}))
    share = ShareSettings(**members.get("share", {}))
    if share.number > share.of:
        found = f"'number' is {share.number}, of {share.of}"
        mistakes.append(Mistake("repository.share", found, "count the publishers from 1"))
    return RepositorySettings(**{**members, **paths, "batch": batch, "share": share})


def _resolve(members: Mapping[str, Any], mistakes: list[Mistake]) -> ResolveSettings:
    only = []
    for at, text in enumerate(members.get("only", ())):
        try:
            only.append(Reference.parse(text))
        except InvalidReference as error:
            mistakes.append(Mistake(f"resolve.only[{at}]", error.found, error.hint))
    return ResolveSettings(**{**members, "only": tuple(only)})


def _webhook(members: Mapping[str, Any], workdir: Path) -> WebhookSettings:
    return WebhookSettings(
        **{
            **members,
            "spool": _path(members.get("spool", WebhookSettings().spool), workdir),
            "secrets": WebhookSecrets(**members.get("secrets", {})),
            "convert": _convert(members.get("convert", {})),
        }
    )


def _convert(members: Mapping[str, Any]) -> ConvertSettings:
    """Lists of globs as tuples, of which a text stands for one."""
    tokens = [{**token, "images": _globs(token)} for token in members.get("tokens", ())]
    issuers = [
        {
            **issuer,
            "images": _globs(issuer),
            "claims": {name: _listed(globs) for name, globs in issuer["claims"].items()},
        }
        for issuer in members.get("issuers", ())
    ]
    lists = {
        "tokens": tuple(ConvertToken(**token) for token in tokens),
        "issuers": tuple(TrustedIssuer(**issuer) for issuer in issuers),
    }
    return ConvertSettings(**{**members, **lists})


def _globs(members: Mapping[str, Any]) -> tuple[str, ...]:
    return _listed(members.get("images", "*"))


def _listed(globs: str | Sequence[str]) -> tuple[str, ...]:
    return (globs,) if isinstance(globs, str) else tuple(globs)


def _events(members: Mapping[str, Any], workdir: Path) -> EventSettings:
    file = members.get("file", str(EventSettings().file))
    return EventSettings(**{**members, "file": _path(file, workdir) if file else None})


def _signatures(members: Mapping[str, Any], workdir: Path) -> SignatureSettings:
    policy = members.get("policy")
    given = {
        "policy": _path(policy, workdir) if isinstance(policy, str) else policy,
        "keep_referrers": tuple(members.get("keep_referrers", ())),
    }
    return SignatureSettings(**{**members, **given})


def _check_policy(config: Config, workdir: Path, mistakes: list[Mistake]) -> None:
    """Read the policy as the plan will, so that nothing begins with one that means nothing."""
    try:
        read_policy(config.signatures, workdir)
    except ConfigError as error:
        mistakes.append(Mistake("signatures.policy", error.found, error.hint))


def read_policy(settings: SignatureSettings, workdir: Path) -> Policy | None:
    """The policy that the configuration names, None where it names none.

    Raises `ConfigError` where it is not one, or where a key is not there.
    """
    if settings.policy is None:
        return None
    from ..signatures.policy import Policy  # slow to import

    if isinstance(settings.policy, Path):
        return Policy.read(settings.policy, workdir)
    return Policy.parse(settings.policy, workdir)


def _products(names: Sequence[str], mistakes: list[Mistake]) -> tuple[Product, ...]:
    if Product.LAYERS not in names:
        mistakes.append(
            Mistake(
                "products",
                "'layers' is missing",
                f"write 'products: [{', '.join(['layers', *names])}]': the others are made of them",
            )
        )
    return in_order(names)


def _platforms(texts: Sequence[str | Platform], mistakes: list[Mistake]) -> tuple[Platform, ...]:
    platforms: dict[str, Platform] = {}
    for at, text in enumerate(texts):
        try:
            platform = Platform.parse(str(text))
        except InvalidReference as error:
            mistakes.append(Mistake(f"platforms[{at}]", error.found, error.hint))
            continue
        first = platforms.setdefault(platform.label, platform)
        if first != platform:
            found = f"'{platform}' would be published in the same place as '{first}'"
            mistakes.append(Mistake(f"platforms[{at}]", found, "keep one of the two"))
    return tuple(platforms.values())


def _registries(
    plain: Mapping[str, Any], workdir: Path, mistakes: list[Mistake]
) -> dict[str, RegistrySettings]:
    settings: dict[str, RegistrySettings] = {}
    spelled: dict[str, str] = {}
    for name, members in plain.items():
        key = dotted(("registries", name))
        host = _host(name)
        if not host:
            mistakes.append(
                Mistake(key, "that is no host name", "write it like ghcr.io or localhost:5000")
            )
            continue
        if host in settings:
            found = f"that is the same registry as {spelled[host]!r}"
            mistakes.append(Mistake(key, found, "join the two"))
        told = any(mistake.key.startswith(f"{key}.") for mistake in mistakes)
        if not told and bool(members.get("username_env")) != bool(members.get("password_env")):
            mistakes.append(
                Mistake(key, "one of 'username_env' and 'password_env' is missing", "name both")
            )
        settings[host] = _registry(members, workdir)
        spelled[host] = name
    return settings


def _host(name: str) -> str:
    """`Reference.host` for a registry as it is written in a wish list; empty if it is none."""
    try:
        reference = Reference.parse(f"https://{name}/repository")
    except InvalidReference:
        return ""
    return reference.host if reference.registry == name.lower() else ""


def _registry(members: Mapping[str, Any], workdir: Path) -> RegistrySettings:
    flat = {**members, **members.get("limits", {})}
    flat.pop("limits", None)
    for file in ("auth_file", "ca_file"):
        if file in flat:
            flat[file] = _path(flat[file], workdir)
    if "mirrors" in flat:
        flat["mirrors"] = tuple(url.rstrip("/") for url in flat["mirrors"])
    return RegistrySettings(**flat)


def _removal(members: Mapping[str, Any]) -> RemovalSettings:
    lists = {
        "retention": tuple(Rule(**rule) for rule in members.get("retention", ())),
        "pinned": tuple(members.get("pinned", ())),
    }
    return RemovalSettings(**{**members, **lists})


def _flat(members: Mapping[str, Any], mistakes: list[Mistake]) -> FlatSettings:
    points = members.get("mount_points", FlatSettings().mount_points)
    return FlatSettings(**{**members, "mount_points": _mount_points(points, mistakes)})


def _mount_points(texts: Sequence[str], mistakes: list[Mistake]) -> tuple[str, ...]:
    points: dict[str, None] = {}
    for at, text in enumerate(texts):
        parts = [part for part in text.split("/") if part not in ("", ".")]
        if not text.startswith("/") or not parts or not all(map(_is_plain_name, parts)):
            mistakes.append(
                Mistake(
                    f"flat.mount_points[{at}]",
                    f"{text[:80]!r} is no mount point",
                    "write an absolute path without '..', like /cvmfs",
                )
            )
        points["/" + "/".join(parts)] = None
    return tuple(points)


def _is_plain_name(name: str) -> bool:
    """Whether a folder of a published tree may have the name, which CernVM-FS may not read."""
    return (
        name != ".."
        and name.isprintable()
        and not name.startswith((".cvmfs", ".wh."))
        and len(name.encode()) <= 255
    )
