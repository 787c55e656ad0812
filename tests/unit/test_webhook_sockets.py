"""Where the webhook listens, on machines that have not all that a name stands for."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from duccmake.errors import ConfigError
from duccmake.service.webhook.sockets import open_sockets

HERE: Any = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
ELSEWHERE: Any = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))
UNKNOWN: Any = (socket.AF_DECnet, socket.SOCK_STREAM, 6, "", ("::1", 0))


@pytest.mark.parametrize("found", [[ELSEWHERE, HERE], [HERE, ELSEWHERE], [UNKNOWN, HERE]])
def test_the_addresses_of_a_host_that_are_here_are_enough(
    found: list[Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **how: found)
    (server,) = open_sockets("localhost:0")
    with server:
        assert server.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("found", [[ELSEWHERE], [UNKNOWN], [ELSEWHERE, UNKNOWN]])
def test_a_host_of_which_no_address_is_here_is_refused(
    found: list[Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **how: found)
    with pytest.raises(ConfigError, match="cannot listen at elsewhere:0"):
        open_sockets("elsewhere:0")


def test_a_port_that_is_taken_at_one_address_is_taken(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at: Any = (*HERE[:4], taken.getsockname())
        monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **how: [HERE, at])
        with pytest.raises(ConfigError) as caught:
            open_sockets("localhost:0")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EADDRINUSE
