"""Loading all wish lists: fetched first, and the last good version where that fails."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import RecipeError
from ...fs.files import write_atomically
from ..document import read
from ..model import Recipe, join
from ..parser import parse
from . import git, web
from .listing import parse_list
from .location import Source

Origin = Mapping[str, str]
"""What an image's record says of its wish list: ``recipe``, and ``commit`` where it has one."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """All wish lists, one `Recipe` a repository.

    ``warnings`` are what may pass; ``problems`` (source and reason) what somebody has
    to mend; either way an older version is in force, if there is one.  ``status`` has
    a line for each list from elsewhere.  ``origins`` are by `Wish.path`.
    """

    recipes: tuple[Recipe, ...]
    origins: Mapping[Path, Origin]
    warnings: tuple[str, ...] = ()
    problems: tuple[tuple[str, str], ...] = ()
    status: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Version:
    """A wish list's content, and which it is: a commit of git, or an ETag of the web."""

    content: bytes
    commit: str = ""
    etag: str = ""
    fetched: float = 0.0

    @property
    def label(self) -> str:
        """Which version this is, for people."""
        if self.commit:
            return f"commit {self.commit[:12]}"
        return time.strftime("the version of %Y-%m-%d %H:%M:%S UTC", time.gmtime(self.fetched))


def load_sources(sources: Sequence[Source], store: Path, *, fetch: bool = True) -> Loaded:
    """Read all wish lists; those that are elsewhere are fetched first, and kept in ``store``.

    Without ``fetch`` the versions that are in force are read, as far as there are any.
    Raises `RecipeError` where a file is unusable.  What is wrong with a list from
    elsewhere is told, and its last good version stays in force.
    """
    recipes: list[Recipe] = []
    plain: list[Recipe] = []
    origins: dict[Path, Origin] = {}
    warnings: list[str] = []
    problems: list[tuple[str, str]] = []
    status: list[str] = []
    wanted = _once(sources)
    for source in wanted:
        if not source.is_remote:
            into = plain if source.format == "list" else recipes
            into.append(_parsed(source, source.path, read(source.path)))
            origins[source.path] = {"recipe": source.text}
            continue
        kept = _Kept(source, store)
        if fetch:
            kept.refresh()
        warnings += [f"wish list {source.text}: {line}" for line in kept.warnings]
        problems += [(source.text, line) for line in kept.problems]
        if (version := kept.good) is None:
            continue
        path = _display(source, version)
        stale = "; ".join((*kept.warnings, *kept.problems))
        try:
            recipe = _parsed(source, path, version.content)
        except RecipeError as error:  # it was good for another version of duccmake
            problems.append((source.text, f"{version.label}: {error}"))
            continue
        (plain if source.format == "list" else recipes).append(replace(recipe, stale=stale))
        origins[path] = {
            "recipe": source.text,
            **({"commit": version.commit} if version.commit else {}),
        }
        status.append(f"{source.text}: {version.label}{' (the last good one)' if stale else ''}")
    recipes += [_in_company(recipe, recipes) for recipe in plain]
    if len(recipes) < len(wanted):
        # Nobody knows which repository the missing list is for.
        lacking = "a wish list cannot be read"
        recipes = [replace(recipe, stale=recipe.stale or lacking) for recipe in recipes]
    return Loaded(tuple(join(recipes)), origins, tuple(warnings), tuple(problems), tuple(status))


def _in_company(plain: Recipe, recipes: Sequence[Recipe]) -> Recipe:
    """A plain list, which says nothing of thin images, as the recipe of its repository has it."""
    for recipe in recipes:
        if recipe.repository == plain.repository:
            return replace(plain, user=recipe.user, output_format=recipe.output_format)
    return plain


def _once(sources: Sequence[Source]) -> list[Source]:
    found: dict[str, Source] = {}
    for source in sources:
        place = source.text if source.is_remote else str(source.path.resolve())
        found.setdefault(place, source)
    return list(found.values())


def _parsed(source: Source, path: Path, content: bytes) -> Recipe:
    if source.format == "list":
        return parse_list(path, content, source.cvmfs_repo)
    recipe = parse(path, content)
    return replace(recipe, repository=source.cvmfs_repo) if source.cvmfs_repo else recipe


def _display(source: Source, version: _Version) -> Path:
    """What messages about entries call the list: short, and with the commit at fault."""
    if source.kind == "web":
        return Path(source.url.partition("://")[2])
    name = source.url.partition("://")[2].rpartition("@")[2]
    return Path(f"{name}@{version.commit[:12]}") / source.path


class _Kept:
    """What is kept of a list from elsewhere: its last good version, and what went wrong since."""

    def __init__(self, source: Source, store: Path) -> None:
        self._source = source
        key = hashlib.sha256(f"{source.text} {source.format}".encode()).hexdigest()[:16]
        self._directory = store / key
        self._file = self._directory / "good.json"
        self.warnings: list[str] = []
        self.problems: list[str] = []
        self.good = self._read()

    def refresh(self) -> None:
        """Fetch, and take what comes if it is good."""
        try:
            new = self._fetch()
        except RecipeError as error:
            # A first version is needed; without a later one work goes on.
            (self.warnings if self.good else self.problems).append(self._line(error))
            return
        if new is None:
            return
        try:
            _parsed(self._source, _display(self._source, new), new.content)
        except RecipeError as error:
            self.problems.append(self._line(error, new))
            return
        if self.good is None or (new.content, new.commit) != (self.good.content, self.good.commit):
            self._write(new)
        self.good = new

    def _fetch(self) -> _Version | None:
        """The version that is there now; None where it is the one in force."""
        if self._source.kind == "web":
            answer = web.fetch(self._source, self.good.etag if self.good else "")
            if answer.content is None:
                return None
            return _Version(answer.content, etag=answer.etag, fetched=time.time())
        clone = self._directory / "git"
        commit = git.fetch(self._source, clone)
        if self.good and self.good.commit == commit:
            return None
        return _Version(git.content(self._source, clone, commit), commit, fetched=time.time())

    def _line(self, error: RecipeError, new: _Version | None = None) -> str:
        version = f"{new.label}: " if new else ""
        force = f"{self.good.label} stays in force" if self.good else "no version of it is in force"
        return f"{version}{error}; {force}"

    def _read(self) -> _Version | None:
        try:
            members = json.loads(self._file.read_bytes())
            return _Version(
                base64.b64decode(members["content"]),
                str(members["commit"]),
                str(members["etag"]),
                float(members["fetched"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write(self, version: _Version) -> None:
        members = {
            "source": self._source.text,
            "commit": version.commit,
            "etag": version.etag,
            "fetched": round(version.fetched, 3),
            "content": base64.b64encode(version.content).decode(),
        }
        write_atomically(self._file, json.dumps(members, indent=1).encode())
