"""A registry that costs next to no CPU.

For measuring clients: each answer comes after a delay, as over a wide network.
``python quick_registry.py DELAY_SECONDS`` prints its port and serves until its
standard input ends.  Every repository has one image, with the tag 1.  Those below ``tiny/``
have layers that can be fetched: one that all share, one that a hundred share, and their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator

LAYERS = 12


@functools.cache
def answers(repository: bytes) -> dict[bytes, bytes]:
    """What there is below a repository: bodies by the last part of their paths."""
    layers = _tiny_layers(repository) if repository.startswith(b"tiny/") else []
    diff_ids = [_digest(gzip.decompress(layer)) for layer in layers] or [
        _digest(b"%s diff %d" % (repository, number)) for number in range(LAYERS)
    ]
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": "RUN something or other " * 4}] * len(diff_ids),
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("config.v1+json", _digest(config), len(config)),
            "layers": [
                _descriptor("layer.v1.tar+gzip", _digest(layer), len(layer)) for layer in layers
            ]
            or [
                _descriptor("layer.v1.tar+gzip", _digest(b"%s %d" % (repository, number)), 9999)
                for number in range(LAYERS)
            ],
        }
    ).encode()
    digest = _digest(manifest).encode()
    blobs = {_digest(blob).encode(): blob for blob in (config, *layers)}
    return {b"1": manifest, digest: manifest, **blobs}


def _tiny_layers(repository: bytes) -> list[bytes]:
    number = int(repository.rpartition(b"app")[2])
    return [_tiny_layer("base"), _tiny_layer(f"of{number // 100}"), _tiny_layer(f"app{number}")]


@functools.cache
def _tiny_layer(name: str) -> bytes:
    """A directory and a file of that name."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        directory = tarfile.TarInfo("opt")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(directory)
        file = tarfile.TarInfo(f"opt/{name}")
        file.size = len(name)
        tar.addfile(file, io.BytesIO(name.encode()))
    return gzip.compress(archive.getvalue(), mtime=0)


def _descriptor(kind: str, digest: str, size: int) -> dict[str, object]:
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest, "size": size}


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@functools.cache
def _reply(method: bytes, path: bytes) -> bytes:
    repository, _, last = path.removeprefix(b"/v2/").rpartition(b"/")
    repository = repository.rpartition(b"/")[0]
    body = answers(repository).get(last) if path != b"/v2/" else b"{}"
    if body is None:
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    # As many headers as registries and what stands before them really send.
    head = (
        b"HTTP/1.1 200 OK\r\nDate: Tue, 03 Mar 2026 10:00:00 GMT\r\nServer: nginx\r\n"
        b"Content-Type: application/vnd.oci.image.manifest.v1+json\r\nContent-Length: %d\r\n"
        b"Connection: keep-alive\r\nDocker-Content-Digest: %s\r\n"
        b"Docker-Distribution-Api-Version: registry/2.0\r\nEtag: %s\r\n"
        b"Strict-Transport-Security: max-age=31536000\r\nX-Content-Type-Options: nosniff\r\n"
        b"Vary: Cookie\r\nX-Request-Id: 5f2c7f7e-9c0f-4b2e-8f5c-1b7a5f1f8e3a\r\n\r\n"
    ) % (len(body), _digest(body).encode(), _digest(body).encode())
    return head if method == b"HEAD" else head + body


class _Connection(asyncio.Protocol):
    def __init__(self, delay: float) -> None:
        self._delay = delay
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
                self._delay, self._transport.write, _reply(method, path)
            )


async def _serve(delay: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(delay), "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def running(delay_seconds: float) -> Iterator[str]:
    """Run it in a process of its own; yields host and port."""
    command = [sys.executable, __file__, str(delay_seconds)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        yield f"localhost:{process.stdout.readline().strip()}"


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
