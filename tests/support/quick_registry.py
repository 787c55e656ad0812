"""A registry that costs next to no CPU, with as many images as one asks for.

For measuring clients: each answer comes after a delay, as over a wide network.
``python quick_registry.py DELAY_SECONDS LAYERS SHARED`` prints its port and serves until its
standard input ends.  Every repository has one image, with the tag 1; those whose names
differ in the last digit alone share the lowest of their layers.  Those below ``tiny/`` have
three layers: one that all share, one that a hundred share, and their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import subprocess
import sys
from collections.abc import Iterator

from duccmake.demo.images import Image, Layer, LayerBuilder
from duccmake.oci.reference import Platform

LAYERS = 12


@functools.cache
def layer(name: str) -> Layer:
    """A layer with one small file."""
    return LayerBuilder().dir("opt").file(f"opt/{name.replace('/', '-')}", name).layer()


def image(repository: str, layers: int = LAYERS, shared: int = 0) -> Image:
    """The image of a repository (``team/app17``), of which so many layers are ``shared``."""
    names = [f"{repository[:-1]}/{number}" for number in range(shared)]
    names += [f"{repository}-{number}" for number in range(shared, layers)]
    if repository.startswith("tiny/"):
        number = int(repository.rpartition("app")[2])
        names = ["base", f"of{number // 100}", f"app{number}"]
    config = {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["/bin/sh"], "Labels": {"name": repository}}
    return Image(tuple(map(layer, names)), config, platform=Platform("linux", "amd64"))


@functools.cache
def answers(repository: bytes, layers: int, shared: int) -> dict[bytes, bytes]:
    """What there is below a repository: bodies by the last part of their paths."""
    found = image(repository.decode(), layers, shared)
    blobs = {str(digest).encode(): blob for digest, blob in found.blobs().items()}
    return {b"1": found.manifest_bytes, str(found.digest).encode(): found.manifest_bytes, **blobs}


@functools.cache
def _reply(method: bytes, path: bytes, layers: int, shared: int) -> bytes:
    repository, _, last = path.removeprefix(b"/v2/").rpartition(b"/")
    repository = repository.rpartition(b"/")[0]
    body = answers(repository, layers, shared).get(last) if path != b"/v2/" else b"{}"
    if body is None:
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    digest = b"sha256:" + hashlib.sha256(body).hexdigest().encode()
    # As many headers as registries and what stands before them really send.
    head = (
        b"HTTP/1.1 200 OK\r\nDate: Tue, 03 Mar 2026 10:00:00 GMT\r\nServer: nginx\r\n"
        b"Content-Type: application/vnd.oci.image.manifest.v1+json\r\nContent-Length: %d\r\n"
        b"Connection: keep-alive\r\nDocker-Content-Digest: %s\r\n"
        b"Docker-Distribution-Api-Version: registry/2.0\r\nEtag: %s\r\n"
        b"Strict-Transport-Security: max-age=31536000\r\nX-Content-Type-Options: nosniff\r\n"
        b"Vary: Cookie\r\nX-Request-Id: 5f2c7f7e-9c0f-4b2e-8f5c-1b7a5f1f8e3a\r\n\r\n"
    ) % (len(body), digest, digest)
    return head if method == b"HEAD" else head + body


class _Connection(asyncio.Protocol):
    def __init__(self, delay: float, layers: int, shared: int) -> None:
        self._delay = delay
        self._images = layers, shared
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if data[:1] == b"\x16":  # A TLS handshake: whoever tries it falls back to plain HTTP.
            self._transport.close()
            return
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            request, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            method, path, _ = request.split(b" ", 2)
            asyncio.get_running_loop().call_later(
                self._delay, self._transport.write, _reply(method, path, *self._images)
            )


async def _serve(delay: float, layers: int, shared: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Connection(delay, layers, shared), "127.0.0.1", 0, backlog=256
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def running(delay_seconds: float, layers: int = LAYERS, shared: int = 0) -> Iterator[str]:
    """Run it in a process of its own; yields host and port."""
    command = [sys.executable, __file__, *map(str, (delay_seconds, layers, shared))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        yield f"localhost:{process.stdout.readline().strip()}"


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
