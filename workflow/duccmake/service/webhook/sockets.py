"""The sockets to listen at: they are ours before anybody is told that we listen."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

from ...errors import ConfigError

_BACKLOG = 2048
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
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                sockets.append(server := socket.socket(family, kind, protocol))
            except OSError as error:  # a kind of address that this machine has not
                refused = error
                continue
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            server.bind(address)
            server.listen(_BACKLOG)
    except BaseException:
        _close(sockets)
        raise
    if refused and not sockets:
        raise refused
    return sockets


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


def _close(sockets: list[socket.socket]) -> None:
    for server in sockets:
        server.close()
