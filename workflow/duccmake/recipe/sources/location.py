"""A wish list's place, as the configuration names it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

from ...errors import ConfigError

Kind = Literal["file", "web", "git"]
Format = Literal["recipe", "list"]

_GIT = re.compile(r"git\+(?P<repository>(?P<scheme>https?|ssh|file)://.+?)//(?P<rest>.+)\Z")
_BRANCH = re.compile(r"(?!.*(?:\.\.|//|@\{|\.lock\Z|/\Z))[A-Za-z0-9_][A-Za-z0-9._/+-]{0,199}\Z")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:]+\]|[A-Za-z0-9][A-Za-z0-9.-]*)(?::[0-9]{1,5})?\Z")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\Z")

_GIT_FORM = "write it like git+https://git.example.org/group/project.git//recipe.yaml@main"


@dataclass(frozen=True, slots=True)
class Source:
    """A wish list's place: a file, an http(s) address, or a file in a git repository.

    ``text`` is how messages and records name it; it holds no credentials.  ``path``
    is the file's, from the root of the git repository where ``kind`` is ``git``;
    ``url`` is the address on the web, or what the program ``git`` is given.  An
    empty ``branch`` is the repository's default one.  ``cvmfs_repo``, where it is
    given, is the repository whatever the list says.  ``username_env`` and
    ``password_env`` name the environment variables that hold the credentials.
    """

    text: str
    kind: Kind
    path: Path = Path()
    url: str = ""
    branch: str = ""
    format: Format = "recipe"
    cvmfs_repo: str = ""
    username_env: str = ""
    password_env: str = ""

    @classmethod
    def parse(cls, value: str | Mapping[str, Any], workdir: Path) -> Source:
        """A source from the configuration: its place, or a mapping with more about it.

        Files count from ``workdir``.  Raises `ConfigError`.
        """
        members: dict[str, Any] = {"source": value} if isinstance(value, str) else dict(value)
        text = members.pop("source")
        kind, path, url, branch = _place(text, workdir)
        name = path.name if kind != "web" else PurePosixPath(urlsplit(url).path).name
        guess: Format = "list" if name.endswith(".txt") else "recipe"
        form: Format = members.pop("format", guess) or guess
        if form == "list" and not members.get("cvmfs_repo"):
            raise ConfigError(
                f"{text!r} is a plain list, which names no repository",
                hint=f"write {{source: '{text}', cvmfs_repo: unpacked.example.org}}",
            )
        return cls(text, kind, path, url, branch, format=form, **members)

    @property
    def is_remote(self) -> bool:
        """Whether it has to be fetched."""
        return self.kind != "file"


def _place(text: str, workdir: Path) -> tuple[Kind, Path, str, str]:
    if text.startswith("git+"):
        return _git(text)
    if re.match(r"https?://", text):
        _check_url(text, text, "https")
        return "web", Path(), text, ""
    if match := re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text):
        raise ConfigError(
            f"{_hidden(text)!r}: {match[1]!r} is no scheme of a wish list",
            hint=f"use a path or https://, or {_GIT_FORM}",
        )
    try:
        return "file", workdir / Path(text).expanduser(), "", ""
    except RuntimeError:  # nobody of that name has a home: a folder that begins with "~"
        return "file", workdir / text, "", ""


def _git(text: str) -> tuple[Kind, Path, str, str]:
    match = _GIT.match(text)
    if match is None:
        raise ConfigError(f"{_hidden(text)!r} names no file in a git repository", hint=_GIT_FORM)
    repository, scheme = match["repository"], match["scheme"]
    if scheme == "file":
        if not repository.startswith("file:///"):
            raise ConfigError(f"{text!r}: the repository's path is not absolute", hint=_GIT_FORM)
    else:
        _check_url(text, repository, scheme)
    name, at, branch = match["rest"].partition("@")
    if (at and not _BRANCH.match(branch)) or not name.isprintable():
        raise ConfigError(f"{text!r}: {branch or name!r} is no branch", hint=_GIT_FORM)
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or parts[0].startswith(("/", ":")):
        raise ConfigError(f"{text!r}: {name!r} is no file of a repository", hint=_GIT_FORM)
    return "git", Path(*parts), repository, branch


def _check_url(text: str, url: str, scheme: str) -> None:
    """Refuse what is no address, and credentials in it; a user of ssh is none."""
    try:
        user, at, host = urlsplit(url).netloc.rpartition("@")
    except ValueError:
        raise ConfigError(f"{_hidden(text)!r} is no address", hint=_GIT_FORM) from None
    if at and not (scheme == "ssh" and _USER.match(user)):
        raise ConfigError(
            f"{_hidden(text)!r}: credentials do not belong into the configuration",
            hint="write {source: ..., username_env: NAME, password_env: NAME} with the names of "
            "environment variables, or leave them to netrc or git's credential helper",
        )
    if not _HOST.match(host) or not url.isprintable() or " " in url:
        raise ConfigError(f"{text!r}: {host!r} is not a host name", hint=_GIT_FORM)


def _hidden(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    return (
        f"{scheme}{separator}{rest.rpartition('@')[2]}" if "@" in rest.partition("/")[0] else text
    )
