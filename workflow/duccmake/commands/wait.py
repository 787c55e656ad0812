"""``duccmake wait``: until an image is visible, or cannot be."""

from __future__ import annotations

import argparse
import functools
import math
import sys
import time
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path

from ..errors import ConfigError, InvalidReference
from ..oci.reference import Digest, Reference
from ..run.whereabouts import Asked
from .command import Command, add_directory
from .waiting import At, Found, Here, Is, Place, Service, behind

DESCRIPTION = """\
Wait until an image is visible, by its digest if that is given: where snakemake runs, as the last
run left it; or, with --service, as the webhook's service says; or, with --at, at web servers of
the repository, by their .cvmfspublished and catalogs. The exit status is 0 when it is visible, 1
when it failed, which is said with the reason, 2 when it cannot be waited for, and 3 when the time
is over."""

_FAILED, _TIME_OVER = 1, 3
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_GROWTH = 1.5


def wait(options: argparse.Namespace) -> int:
    """Wait, and say how it ended; the exit status."""
    text, at, digest_text = options.image.partition("@")
    reference = Reference.parse(text)
    if reference.is_glob or reference.is_local:
        raise InvalidReference(f"{text!r} is not one image of a registry")
    digest = str(Digest.parse(digest_text)) if at else ""
    asked = Asked(reference.name, digest)
    end = time.monotonic() + options.timeout
    key = options.key.absolute() if options.key else None
    manifests: set[str] = set()
    if not options.directory.is_dir():
        raise ConfigError(f"there is no directory {options.directory}")
    with chdir(options.directory):
        first: list[Place] = [Service(options.service, asked)] if options.service else []
        if not options.service and not options.at:
            first = [Here(asked)]
        status = _all_there(first, reference.name, end, manifests)
        if status or not options.at:
            return status

        @functools.cache
        def meant() -> set[str]:
            # What the service has published as this digest need not be asked for elsewhere.
            return manifests | {digest} if manifests else behind(reference, digest)

        wanted = digest or next(iter(sorted(manifests)), "")
        then = [At(url, reference.name, wanted, meant, key, options.prefix) for url in options.at]
        return _all_there(then, reference.name, end, manifests)


def _all_there(places: Sequence[Place], image: str, end: float, manifests: set[str]) -> int:
    """Wait until it is visible at all places, or failed at one; the exit status.

    What they say is published is added to ``manifests``.
    """
    left = {place: Found(Is.NOT_YET, "") for place in places}
    pause = _FIRST_PAUSE
    while left:
        for place, before in list(left.items()):
            found = place.look()
            left[place] = found
            if found.state is Is.THERE:
                manifests.update(found.manifests)
                del left[place]
            if found != before:
                _say(found, image, place)
            if found.state is Is.FAILED:
                return _FAILED
        remaining = end - time.monotonic()
        if left and remaining <= 0:
            sys.stderr.write(f"duccmake: the time is over, and {image} is not visible\n")
            return _TIME_OVER
        if left:
            time.sleep(min(pause, remaining))
            pause = min(_LONGEST_PAUSE, pause * _GROWTH)
    return 0


def _say(found: Found, image: str, place: Place) -> None:
    """A line when something has changed: what is wanted on standard output, all else beside it."""
    stream = sys.stdout if found.state is Is.THERE else sys.stderr
    stream.write(f"{found.state}  {image}  {place.name}: {found.words}\n")
    stream.flush()


def _address(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError(text)
    return text


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError(text)
    return value


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command can be told."""
    parser.add_argument("image", metavar="IMAGE[@DIGEST]", help="registry/repository:tag")
    parser.add_argument(
        "--at",
        type=_address,
        action="append",
        default=[],
        metavar="URL",
        help="a stratum 0, a stratum 1 or a replica, like http://HOST/cvmfs/NAME; may be repeated",
    )
    parser.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="with --at: the repository's public key, to which its manifest is held",
    )
    parser.add_argument(
        "--prefix",
        default="",
        help="with --at: the directory of the repository that has the images",
    )
    parser.add_argument(
        "--service",
        type=_address,
        metavar="ADDRESS",
        help="what POST /convert answered with as 'progress'",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=3600.0,
        metavar="SECONDS",
        help="how long to wait (default: an hour)",
    )
    add_directory(parser)


COMMAND = Command("wait", "wait until an image is visible", DESCRIPTION, add_options, wait)
