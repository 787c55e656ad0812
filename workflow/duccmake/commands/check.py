"""``duccmake check``: a wish list before it is merged."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from ..config.configuration import Config
from ..errors import ConfigError
from ..recipe.model import Recipe
from ..service.invocation import Invocation
from .checking import lists, reports, text
from .checking.check import Checked, check
from .checking.findings import Level, Rule
from .checking.lists import Document, WishList
from .command import Command

DESCRIPTION = """\
Check a wish list before it is merged: what is wrong in it, images that are not there or not
for everybody to read, what its globs match, how much there is to fetch, and what leaves. A
list is a file, an http(s) address, git+https://HOST/PROJECT.git//FILE@BRANCH, or - for
standard input. It needs neither a configuration nor a repository, and looks at both where
they are at hand. Exit status: 0 where nothing stands in the way, 1 where something does, 2
where the check could not be made."""


def _as_text(checked: Checked) -> str:
    return "".join(f"{line}\n" for line in text.lines(checked))


FORMATS: dict[str, Callable[[Checked], str]] = {
    "text": _as_text,
    "json": reports.as_json,
    "sarif": reports.as_sarif,
    "gitlab-codequality": reports.as_gitlab,
}


def run(options: argparse.Namespace) -> int:
    """Check, and say what was found; 1 where that stands in the way of a merge."""
    if options.recipe == options.against == lists.STANDARD_INPUT:
        raise ConfigError("both lists cannot come from standard input", hint="name a file")
    config = _configuration(options)
    repository = options.repository or _repository(options.recipe, config)
    document = lists.fetch(options.recipe, called=options.name, plain=options.plain)
    new = lists.read_list(document, repository)
    old = _older(options, document, repository) if options.against else None
    checked = check(new, old, config, ask=not options.offline)
    report = FORMATS[options.format](checked)
    if options.output:
        _write(options.output, report)
        report = _as_text(checked)
    sys.stdout.write(report)
    levels = [Level.ERROR, Level.WARNING] if options.strict else [Level.ERROR]
    return int(any(checked.counted(level) for level in levels))


def _repository(recipe: str, config: Config) -> str:
    """The repository that the configuration names for a list, if it does."""
    here = Path(recipe).absolute()
    places = ((source.text, source.path.absolute(), source.cvmfs_repo) for source in config.recipe)
    return next((name for text, path, name in places if recipe == text or here == path), "")


def _older(options: argparse.Namespace, document: Document, repository: str) -> WishList:
    """The version before the change; where there was none, all is new."""
    found = lists.fetch(options.against, plain=options.plain)
    if not found.raw.strip():
        return WishList(document.path, Recipe(document.path, ""), ())
    # Findings are the same in both only if the list is called the same.
    same = Document(document.path, found.raw, document.is_plain)
    old = lists.read_list(same, repository)
    if any(item.rule in (Rule.SYNTAX, Rule.SCHEMA) for item in old.findings):
        sys.stderr.write(f"{options.against} is no wish list: all counts as new\n")
    return old


def _configuration(options: argparse.Namespace) -> Config:
    files = tuple(path.absolute() for path in options.configfile)
    return Invocation(Path.cwd(), files, tuple(options.config)).configuration()


def _write(path: Path, report: str) -> None:
    try:
        path.write_text(report, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command can be told."""
    parser.add_argument("recipe", metavar="RECIPE", help="the wish list")
    parser.add_argument(
        "--against",
        metavar="OLD",
        help="the version before the change: what is wrong in it as well counts as known",
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="(default: text)")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write it there, and the text here"
    )
    parser.add_argument(
        "--name", default="", help="what reports call the list: its path in the repository"
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="it has an image a line, as names that end in .txt have",
    )
    parser.add_argument(
        "--repository",
        default="",
        metavar="NAME",
        help="the repository that the list is for, whatever it or the configuration says",
    )
    parser.add_argument("--offline", action="store_true", help="ask no registry")
    parser.add_argument("--strict", action="store_true", help="warnings stand in the way, too")
    parser.add_argument(
        "--configfile",
        nargs="+",
        action="extend",
        type=Path,
        default=[],
        metavar="FILE",
        help="configurations beside config/config.yaml",
    )
    parser.add_argument(
        "-C", "--config", nargs="+", action="extend", default=[], metavar="KEY=VALUE"
    )


COMMAND = Command("check", "check a wish list before it is merged", DESCRIPTION, add_options, run)
