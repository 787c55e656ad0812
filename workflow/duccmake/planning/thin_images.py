"""Which thin images have to be pushed: what is wished for, what was pushed, what is there.

A thin image that was pushed, or seen in its registry, leaves its manifest under
``results/thin/``.  It is looked for again, by HEAD, when that is older than
``thin.max_age``; where all is lost, each costs one HEAD.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..config.configuration import Config
from ..errors import DuccmakeError, InvalidReference, RateLimited, RegistryUnavailable
from ..fs.files import write_atomically
from ..oci.content_store import ContentStore
from ..oci.reference import Reference
from ..products import Product
from ..recipe.coverage import Coverage
from ..recipe.model import Recipe
from ..registry.client import Client
from ..registry.http.credentials import OUTPUT_VARIABLE, Credentials, output_credentials
from ..workspace.results import REFUSED_THINS
from .model import PlannedImage, PlannedThin, State
from .thin_form import OCI_SUFFIX, THIN_FORMAT, bases_of, docker_of, target_of


@dataclass(slots=True)
class Thins:
    """What is to be pushed; ``warnings`` are lines for people.

    ``problems`` are wishes that cannot be followed: repository, image, reason, and
    whether that may fail quietly.
    """

    planned: list[PlannedThin] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[tuple[str, str, str, bool]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Wish:
    """A thin image, of one image or of one for each of several platforms."""

    repository: str
    target: Reference
    images: tuple[PlannedImage, ...]
    user: str = ""

    def of(self, images: Iterable[PlannedImage], why: str = "") -> PlannedThin:
        """The plan to make it of some of the images."""
        chosen = tuple(images)
        parts = [[str(image.platform), str(image.manifest), str(image.config)] for image in chosen]
        several = bool(chosen[0].variants)
        made_of = [THIN_FORMAT, self.repository, str(self.target), several, parts]
        return PlannedThin(
            repository=self.repository,
            name=chosen[0].reference.name,
            target=str(self.target),
            key=hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16],
            images=tuple(image.name for image in chosen),
            user=self.user,
            ignorable=all(image.ignorable for image in chosen),
            why=why,
        )


def plan_thins(
    recipes: Sequence[Recipe],
    images: Iterable[PlannedImage],
    config: Config,
    store: ContentStore,
    connect: Callable[[Mapping[str, Credentials]], Client],
    *,
    clock: Callable[[], float] = time.time,
) -> Thins:
    """Decide what is to be pushed; asks registries only for what is not known.

    ``connect`` makes a client that has some credentials beside those it finds.
    """
    thins = Thins()
    if config.thin.push == "never":
        return thins
    lenient = config.thin.push == "auto"
    wishes = _with_accounts(list(_wishes(recipes, images, thins, lenient=lenient)), recipes, thins)
    open_questions: list[tuple[_Wish, PlannedThin]] = []
    now = clock()
    for wish in wishes:
        thin = _next(wish)
        if config.scope != "all" and _is_known(thin, now, config.thin.max_age):
            continue
        pending = {image.name for image in wish.images if image.state != State.PUBLISHED}
        if pending.intersection(thin.images):
            thin = replace(thin, why="new")
        open_questions.append((wish, thin))
    if open_questions:
        given = _credentials(wishes)
        with connect(given) as client:
            _Asker(client, config, store, thins, now).ask(open_questions)
    return thins


def _wishes(
    recipes: Sequence[Recipe], images: Iterable[PlannedImage], thins: Thins, *, lenient: bool
) -> Iterator[_Wish]:
    """The thin images that are wished for, but for those that have no name of their own."""
    groups: dict[tuple[str, Reference], list[PlannedImage]] = {}
    for image in images:
        if Product.THIN in image.products:
            groups.setdefault((image.repository, image.reference), []).append(image)
    by_repository = {recipe.repository: recipe for recipe in recipes}
    sources = {(reference.host, reference.repository, reference.tag) for _, reference in groups}
    coverage = Coverage(recipes)
    takers: dict[tuple[str, str, str], Reference] = {}
    nowhere = 0
    for (repository, reference), group in groups.items():
        recipe = by_repository[repository]
        try:
            target = target_of(recipe.output_format, reference)
        except InvalidReference as error:
            if reference.is_local and lenient:
                nowhere += 1
            else:
                _refuse(thins, group, str(error))
            continue
        place = (target.host, target.repository, target.tag)
        taker = takers.setdefault(place, reference)
        tags = (target.tag, f"{target.tag}{OCI_SUFFIX}")
        if place in sources or any(coverage.wish(replace(target, tag=tag)) for tag in tags):
            _refuse(
                thins,
                group,
                f"its thin image would be {target.name}, an image that is wished for itself; "
                "give thin images a repository of their own with output_format",
            )
        elif taker != reference:
            _refuse(
                thins,
                group,
                f"its thin image would get the name {target.name}, as that of {taker.name} does; "
                "tell them apart in output_format, with $(registry), $(repository) and $(tag)",
            )
        else:
            yield _Wish(repository, target, tuple(group))
    if nowhere:
        thins.warnings.append(
            f"{nowhere} of the images are in files, so that output_format names no registry for "
            "thin images of them; write one into it to have them pushed"
        )


def _with_accounts(wishes: Sequence[_Wish], recipes: Iterable[Recipe], thins: Thins) -> list[_Wish]:
    """The wishes with their recipe's account, where that is for one registry alone."""
    accounts: dict[str, str] = {}
    for recipe in recipes:
        if not output_credentials(recipe.user):
            continue
        hosts = {wish.target.host for wish in wishes if wish.repository == recipe.repository}
        # Nor does a registry that is down make another the only one.
        hosts |= set(_hosts_of(recipe))
        if len(hosts) > 1:
            thins.warnings.append(
                f"{OUTPUT_VARIABLE} is not used: output_format of {recipe.path} leads to "
                f"{len(hosts)} registries, and a password is for one; name the credentials of "
                "each in the configuration's 'registries'"
            )
        else:
            accounts[recipe.repository] = recipe.user
    return [replace(wish, user=accounts.get(wish.repository, "")) for wish in wishes]


def _hosts_of(recipe: Recipe) -> Iterator[str]:
    """The registries that ``output_format`` leads to, for all that the recipe wishes for."""
    for wish in recipe.wishes:
        reference = wish.reference
        tagged = replace(reference, tag="any") if reference.is_glob else reference
        with suppress(InvalidReference):
            yield target_of(recipe.output_format, tagged).host


def _refuse(thins: Thins, group: Sequence[PlannedImage], reason: str) -> None:
    image = group[0]
    thins.problems.append(
        (image.repository, image.reference.name, f"thin image: {reason}", image.ignorable)
    )


def _next(wish: _Wish) -> PlannedThin:
    """The thin image to have next.

    With several platforms, it is of those that are published, and when that is
    pushed of all: so that one that cannot be converted keeps back no other.
    """
    published = [image for image in wish.images if image.state == State.PUBLISHED]
    if published and len(published) < len(wish.images):
        thin = wish.of(published)
        if not is_pushed(thin):
            return thin
    return wish.of(wish.images)


def is_pushed(thin: PlannedThin) -> bool:
    """Whether its manifest is there from an earlier push, and no note of a failure."""
    return manifest_of(thin.output) is not None


def manifest_of(path: Path) -> bytes | None:
    """The manifest in a file, or None where there is none."""
    try:
        content = path.read_bytes()
        return content if "schemaVersion" in json.loads(content) else None
    except (OSError, ValueError, TypeError):
        return None


def _is_known(thin: PlannedThin, now: float, max_age: float) -> bool:
    try:
        return 0 <= now - thin.output.stat().st_mtime < max_age and is_pushed(thin)
    except OSError:
        return False


def _credentials(wishes: Iterable[_Wish]) -> dict[str, Credentials]:
    """The recipes' accounts for the registries that they push to."""
    found: dict[str, Credentials] = {}
    for wish in wishes:
        account = output_credentials(wish.user)
        if account is not None:
            found.setdefault(wish.target.host, account)
    return found


# --- asking registries --------------------------------------------------


class _Asker:
    """Asks registries whether they have thin images, and whether they take any."""

    def __init__(
        self, client: Client, config: Config, store: ContentStore, thins: Thins, now: float
    ) -> None:
        self._client = client
        self._config = config
        self._store = store
        self._thins = thins
        self._now = now
        self._accounts: dict[tuple[str, str], bool] = {}
        self._refusals: dict[str, str] = {}

    def ask(self, questions: Sequence[tuple[_Wish, PlannedThin]]) -> None:
        """Plan what has to be pushed."""
        closed: dict[str, list[str]] = {}
        asked = []
        for wish, thin in questions:
            refusal = self._refusal(wish.target) if self._config.thin.push == "auto" else ""
            if refusal:
                closed.setdefault(refusal, []).append(thin.name)
            elif thin.why or self._config.scope == "all":
                self._thins.planned.append(replace(thin, why=thin.why or "wished for"))
            else:
                asked.append((wish, thin))
        for refusal, names in closed.items():
            noun = "1 thin image is" if len(names) == 1 else f"{len(names)} thin images are"
            self._thins.warnings.append(f"{noun} not pushed: {refusal}")
        with ThreadPoolExecutor(self._config.resolve.connections) as pool:
            answers = list(pool.map(self._look, asked))
        self._settle(asked, answers)

    def _refusal(self, target: Reference) -> str:
        """Why nothing is pushed there: there are no credentials, and the registry wants some."""
        account = (target.host, target.repository.partition("/")[0])
        if account not in self._accounts:
            self._accounts[account] = self._client.has_credentials(target)
        if self._accounts[account]:
            return self._refusal_of_account(target)
        if target.host not in self._refusals:
            self._refusals[target.host] = self._ask_host(target)
        return self._refusals[target.host]

    def _refusal_of_account(self, target: Reference) -> str:
        """Why nothing is pushed with the credentials that there are: they were refused before."""
        age = self._config.thin.max_age
        if not was_refused(of_account(target), self._now, age):
            return ""
        return (
            f"registry {target.registry} takes no pushes with the credentials that there are: "
            f"give others, or write 'thin: {{push: never}}' if none are wished for; it is asked "
            f"again after thin.max_age ({age:g} s), or when {REFUSED_THINS} is removed"
        )

    def _ask_host(self, target: Reference) -> str:
        hint = (
            "log in there, or name credentials in the configuration's 'registries'; "
            "'thin: {push: never}' says that none are wished for"
        )
        refusal = (
            f"registry {target.registry} takes no anonymous pushes, and there are no credentials "
            f"for {target.repository}; {hint}"
        )
        if was_refused(of_anybody(target), self._now, self._config.thin.max_age):
            return refusal
        try:
            if self._client.is_open(target):
                return ""
        except (RegistryUnavailable, RateLimited) as error:
            return f"registry {target.registry} not reached: {error.found}"
        except DuccmakeError as error:
            return f"registry {target.registry}: {error.found}; {hint}"
        note_refusal(of_anybody(target))
        return refusal

    def _look(self, question: tuple[_Wish, PlannedThin]) -> DuccmakeError | str | None:
        """Why a thin image has to be pushed; empty where it is there, None where all is known."""
        wish, thin = question
        try:
            found = self._client.pushed(wish.target)
            expected = self._expected(wish, thin)
            if found is None:
                return "not in its registry"
            if expected is None or str(found) != expected[0]:
                return f"another one is in its registry: {found.short}"
            keep(thin, expected[1])
            return None
        except (RegistryUnavailable, RateLimited) as error:
            return error
        except DuccmakeError:
            return "cannot be looked for"

    def _expected(self, wish: _Wish, thin: PlannedThin) -> tuple[str, bytes] | None:
        """Digest and bytes of the manifest that should be there."""
        content = manifest_of(thin.output)
        if content is None:
            by_name = {image.name: image for image in wish.images}
            bases = bases_of([by_name[name] for name in thin.images], self._store)
            form = docker_of(bases, thin)
            content = form.top.content
        return f"sha256:{hashlib.sha256(content).hexdigest()}", content

    def _settle(
        self,
        asked: Sequence[tuple[_Wish, PlannedThin]],
        answers: Sequence[DuccmakeError | str | None],
    ) -> None:
        missed: dict[str, list[PlannedThin]] = {}
        for (wish, thin), answer in zip(asked, answers, strict=True):
            if isinstance(answer, DuccmakeError):
                words = f"registry {wish.target.registry} not reached: {answer.found}"
                missed.setdefault(words, []).append(thin)
            elif answer is not None:
                self._thins.planned.append(replace(thin, why=answer))
        for words, thins in missed.items():
            unknown = [thin for thin in thins if not is_pushed(thin)]
            if len(unknown) < len(thins):
                self._thins.warnings.append(f"thin images: {words}; they are looked for later")
            self._thins.problems += [
                (thin.repository, thin.name, f"thin image: {words}", thin.ignorable)
                for thin in unknown
            ]


def of_account(target: Reference) -> Path:
    """What notes that a repository takes no pushes with the credentials for it.

    Other repositories of the registry may.
    """
    return REFUSED_THINS / "with-credentials" / target.host / target.repository / "refused"


def of_anybody(target: Reference) -> Path:
    """What notes that a registry takes no anonymous pushes."""
    return REFUSED_THINS / target.host


def was_refused(note: Path, now: float, max_age: float) -> bool:
    """Whether a push was refused in the last ``max_age`` seconds."""
    try:
        return 0 <= now - note.stat().st_mtime <= max_age
    except OSError:
        return False


def note_refusal(note: Path) -> None:
    """Keep in mind that a push was refused."""
    write_atomically(note, b"")


def keep(thin: PlannedThin, manifest: bytes) -> None:
    """Keep the manifest of a thin image that is in its registry now."""
    write_atomically(thin.output, manifest)
