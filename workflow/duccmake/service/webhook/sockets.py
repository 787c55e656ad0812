"""The sockets to listen at: they are ours before anybody is told that we listen."""

from __future__ import annotations

import errno
import socket
import stat
from pathlib import Path
from typing import Any

from ...errors import ConfigError

_BACKLOG = 2048
_NOT_HERE = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
"""Of a host with several addresses this machine may have some: IPv6 is often switched off."""
_MODE = 0o666
"""Of a unix socket that is new: who may reach its folder may call."""


def open_sockets(listen: str) -> list[socket.socket]:
    """Listen at ``HOST:PORT`` or ``unix:PATH``; `ConfigError` where that cannot be."""
    try:
        if listen.startswith("unix:"):
            return [_open_unix(Path(listen.removeprefix("unix:")))]
        return _open_tcp(listen)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise ConfigError(
            f"webhook.listen: cannot listen at {listen}: {reason}",
            hint="give another address, or end the program that has it",
        ) from error


def _open_tcp(listen: str) -> list[socket.socket]:
    """A socket for each address of the host."""
    host, _, port = listen.rpartition(":")
    if int(port) > 65535:  # which getaddrinfo takes for another port
        raise OverflowError("a port is at most 65535")
    sockets: list[socket.socket] = []
    refused: OSError | None = None
    found = socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                sockets.append(_open_at(family, address))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                refused = error
    except BaseException:
        for server in sockets:
            server.close()
        raise
    if refused and not sockets:
        raise refused
    return sockets


def _open_at(family: int, address: Any) -> socket.socket:
    server = socket.socket(family, socket.SOCK_STREAM)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.bind(address)
        server.listen(_BACKLOG)
    except BaseException:
        server.close()
        raise
    return server


def _open_unix(path: Path) -> socket.socket:
    """A socket in the file system, in place of one at which nobody listens any more."""
    mode = _MODE
    if path.exists():
        status = path.stat()
        if not stat.S_ISSOCK(status.st_mode):
            raise FileExistsError(0, "there is a file of that name")
        with socket.socket(socket.AF_UNIX) as other:
            try:
                other.connect(str(path))
            except ConnectionRefusedError:
                mode = stat.S_IMODE(status.st_mode)
                path.unlink()
            else:
                raise FileExistsError(0, "another program listens there")
    server = socket.socket(socket.AF_UNIX)
    try:
        server.bind(str(path))
        path.chmod(mode)
        server.listen(_BACKLOG)
    except BaseException:
        server.close()
        raise
    return server
