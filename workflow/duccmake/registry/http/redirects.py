"""Where redirects lead, and where they may not."""

from __future__ import annotations

from urllib.parse import SplitResult, urljoin, urlsplit

from ...errors import RegistryError
from .host import Response
from .verbatim import target_of

MAX_REDIRECTS = 10
REDIRECTS = frozenset({301, 302, 303, 307, 308})


def redirected(response: Response, url: str, redirects: int, *, plain: bool = False) -> str:
    """Where a redirect leads; the address itself may be signed and stays out of messages.

    From https it leads to http only where that is allowed as ``plain``.
    """
    here = urlsplit(url)
    location = response.headers.get("Location", "").strip()
    target = joined(url, location)
    there = place_of(target) if location else None
    if there is not None:
        target = _secured(url, target)
        there = place_of(target)
    if redirects > MAX_REDIRECTS:
        response.close()
        raise RegistryError(f"{here.netloc} redirects more than {MAX_REDIRECTS} times")
    if there is None:
        response.close()
        raise RegistryError(f"{here.netloc} redirects to nowhere", hint="ask its operator")
    if here.scheme == "https" and there.scheme == "http" and not plain:
        response.close()
        raise RegistryError(
            f"{here.netloc} redirects to {there.netloc} without encryption",
            hint="this is not followed; where it is about blobs, the registry's setting "
            "plain_blobs: true allows it",
        )
    return target


def place_of(url: str) -> SplitResult | None:
    """The parts of an address that can be asked by http or https; None where it is none."""
    try:
        parts = urlsplit(url)
        is_place = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if is_place else None


def _secured(url: str, target: str) -> str:
    """By https what a host that was asked by https writes of itself with http, behind a proxy."""
    here, there = urlsplit(url), urlsplit(target)
    if (here.scheme, there.scheme) != ("https", "http") or there.hostname != here.hostname:
        return target
    is_here = there.port in (None, 80, here.port)
    return joined(url, target_of(target, whole=False)) if is_here else target


def joined(url: str, location: str) -> str:
    """The address that a Location means; joining would mend one that is whole, or signed."""
    if location.lower().startswith(("http://", "https://")):
        return location
    if location.startswith("/") and not location.startswith("//"):
        here = urlsplit(url)
        return f"{here.scheme}://{here.netloc}{location}"
    try:
        return urljoin(url, location)
    except ValueError:
        return ""


def is_same_host(url: str, target: str) -> bool:
    """Whether a redirect stays at the host, or at most leads from http to its https."""
    here, there = urlsplit(url), urlsplit(target)
    if (here.scheme, there.scheme) == ("https", "http"):
        return False
    ports = [parts.port or {"http": 80, "https": 443}[parts.scheme] for parts in (here, there)]
    return here.hostname == there.hostname and (ports[0] == ports[1] or ports == [80, 443])
