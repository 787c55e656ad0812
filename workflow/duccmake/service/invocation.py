"""The operator's programs around Snakemake: its options, and the configuration that they mean."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.configuration import Config
from ..config.file import DEFAULT_CONFIG, read_file, read_yaml


@dataclass(frozen=True, slots=True)
class Invocation:
    """How Snakemake is called: working directory, files and values of the configuration.

    ``rest`` are the other options, as they were given.
    """

    directory: Path
    configfiles: tuple[Path, ...]
    values: tuple[str, ...]
    rest: tuple[str, ...] = ()

    @classmethod
    def parse(cls, arguments: Sequence[str], *, program: str, description: str) -> Invocation:
        """Read a command line; ends the program where it is wrong."""
        parser = argparse.ArgumentParser(program, description=description, allow_abbrev=False)
        parser.add_argument(
            "-d",
            "--directory",
            type=Path,
            default=Path(),
            help="the working directory, with the state (default: this one)",
        )
        parser.add_argument(
            "--configfile",
            "--configfiles",
            dest="configfiles",
            nargs="+",
            action="extend",
            type=Path,
            default=[],
            help=f"configuration files (default: {DEFAULT_CONFIG} in the working directory)",
        )
        parser.add_argument(
            "-C",
            "--config",
            dest="values",
            nargs="+",
            action="extend",
            default=[],
            metavar="KEY=VALUE",
            help="values that go before those of files",
        )
        known, rest = parser.parse_known_args(arguments)
        files = [path.absolute() for path in known.configfiles]
        return cls(known.directory.absolute(), tuple(files), tuple(known.values), tuple(rest))

    @property
    def files(self) -> list[Path]:
        """The files that make up the configuration."""
        return [self.directory / DEFAULT_CONFIG, *self.configfiles]

    def configuration(self) -> Config:
        """The configuration as Snakemake puts it together; `ConfigError` where it is wrong."""
        members: dict[str, Any] = {}
        for path in self.files:
            if path != self.directory / DEFAULT_CONFIG or path.exists():
                _merge(members, read_file(path))
        for value in self.values:
            key, _, text = value.partition("=")
            _merge(members, {key: read_yaml(text, f"--config {key}")})
        return Config.parse(members, workdir=self.directory)


def _merge(members: dict[str, Any], others: Mapping[str, Any]) -> None:
    for key, value in others.items():
        if isinstance(value, Mapping):
            below = members.get(key)
            merged = dict(below) if isinstance(below, Mapping) else {}
            _merge(merged, value)
            members[key] = merged
        else:
            members[key] = value


def log_to_stderr(name: str) -> None:
    """Log as a service does: lines on standard error, which systemd gives their time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    root = logging.getLogger("duccmake")
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    root.propagate = False
