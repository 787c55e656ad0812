"""Registries for tests: Debian's docker-registry, and images to put into the demo registry."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from duccmake.demo.registry import Store
from duccmake.oci.manifest import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
)
from duccmake.oci.reference import Digest, Platform, Reference
from support.registry import FullRegistry
from support.samples import AMD64

LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def layer_of(files: Mapping[str, bytes]) -> tuple[bytes, Digest]:
    """A gzip-compressed layer and its diff_id."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    plain = buffer.getvalue()
    return gzip.compress(plain, mtime=0), sha256(plain)


def sha256(content: bytes) -> Digest:
    """The digest of some bytes."""
    return Digest("sha256", hashlib.sha256(content).hexdigest())


@dataclass(frozen=True)
class SampleImage:
    """An image in a `Store`: descriptors of its manifest, its config and its layers."""

    manifest: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]


def add_image(
    store: Store,
    repository: str,
    tag: str = "",
    *,
    layers: tuple[bytes, ...] | None = None,
    platform: Platform | None = AMD64,
    config_platform: Platform | None = None,
    docker: bool = False,
    config_type: str = "",
    urls: tuple[str, ...] = (),
) -> SampleImage:
    """Put an image of gzip layers into a store."""
    contents = [layer_of({"hello.txt": f"{repository}:{tag}".encode()})[0]]
    contents = list(layers) if layers is not None else contents
    types = (
        (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER)
        if docker
        else (OCI_MANIFEST, OCI_CONFIG, LAYER_GZIP)
    )
    of = config_platform or platform or AMD64
    config = json.dumps(
        {
            "os": of.os,
            "architecture": of.architecture,
            **({"variant": of.variant} if of.variant else {}),
            "config": {"Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [str(_diff_id(item)) for item in contents]},
        }
    ).encode()
    descriptors = tuple(
        Descriptor(types[2], store.put_blob(item), len(item), urls) for item in contents
    )
    config_descriptor = Descriptor(config_type or types[1], store.put_blob(config), len(config))
    raw = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": types[0],
            "config": _json(config_descriptor),
            "layers": [_json(item) for item in descriptors],
        },
        indent=3,
    ).encode()
    digest = store.put_manifest(repository, types[0], raw, tag)
    manifest = Descriptor(types[0], digest, len(raw), platform=platform)
    return SampleImage(manifest, config_descriptor, descriptors)


def add_index(
    store: Store, repository: str, tag: str, entries: list[Descriptor], media_type: str = OCI_INDEX
) -> Descriptor:
    """Put an index over manifests (or further indexes) into a store."""
    raw = json.dumps(
        {"schemaVersion": 2, "mediaType": media_type, "manifests": [_json(e) for e in entries]}
    ).encode()
    return Descriptor(media_type, store.put_manifest(repository, media_type, raw, tag), len(raw))


def _json(item: Descriptor) -> dict[str, object]:
    members: dict[str, object] = {
        "mediaType": item.media_type,
        "digest": str(item.digest),
        "size": item.size,
    }
    if item.urls:
        members["urls"] = list(item.urls)
    if item.platform:
        members["platform"] = {
            "os": item.platform.os,
            "architecture": item.platform.architecture,
            **({"variant": item.platform.variant} if item.platform.variant else {}),
            **({"os.features": item.os_features} if item.os_features else {}),
        }
    return members


def _diff_id(layer: bytes) -> Digest:
    try:
        return sha256(gzip.decompress(layer))
    except (OSError, EOFError):
        return sha256(layer)


@dataclass(frozen=True)
class DockerRegistry:
    """A running docker-registry."""

    host: str
    scheme: str
    log: Path


@contextlib.contextmanager
def docker_registry(
    root: Path,
    *,
    auth: Mapping[str, object] | None = None,
    tls: tuple[Path, Path] | None = None,
    notify: Mapping[str, str] | None = None,
    proxy_of: str = "",
) -> Iterator[DockerRegistry]:
    """Run Debian's docker-registry on a free port of the loopback address.

    ``tls`` is a certificate and its key; ``notify`` are addresses that it tells of
    events, with the Authorization header for each; ``proxy_of`` is the registry that it
    caches, and lets nobody push.  Skips the test where the program
    is missing.
    """
    program = need("docker-registry")
    port = free_port()
    root.mkdir(parents=True, exist_ok=True)
    http: dict[str, object] = {"addr": f"127.0.0.1:{port}", "secret": "only for tests"}
    if tls:
        http["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    settings: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {
            "filesystem": {"rootdirectory": str(root / "data")},
            "delete": {"enabled": True},
        },
        "http": http,
    }
    if auth:
        settings["auth"] = auth
    if notify:
        settings["notifications"] = {
            "endpoints": [
                {
                    "name": f"endpoint{number}",
                    "url": url,
                    "headers": {"Authorization": [secret]},
                    "timeout": "5s",
                    "threshold": 3,
                    "backoff": "1s",
                }
                for number, (url, secret) in enumerate(notify.items())
            ]
        }
    if proxy_of:
        settings["proxy"] = {"remoteurl": proxy_of}
    config = root / "config.yml"
    config.write_text(yaml.safe_dump(settings))
    log = root / "registry.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "serve", str(config)], stdout=output, stderr=output, env=without_proxies()
        )
        try:
            wait_for(port, process, log)
            yield DockerRegistry(f"localhost:{port}", "https" if tls else "http", log)
        finally:
            process.terminate()
            process.wait(30)


def reference(registry: FullRegistry | DockerRegistry, name: str = "team/app:1") -> Reference:
    """An image of a registry, by plain HTTP."""
    return Reference.parse(f"http://{registry.host}/{name}")


class TokenServer:
    """A realm for docker-registry: Bearer tokens (JWT, RS256) for one user, pulls for anybody.

    ``requests`` holds the queries that came, each with whether it carried credentials.
    """

    def __init__(self, directory: Path, user: str, password: str) -> None:
        self._key = directory / "token.key"
        self.bundle = directory / "token.pem"
        self._user = user
        self._basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.seconds = 300
        self.requests: list[tuple[dict[str, list[str]], bool]] = []
        command = [need("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        files = ["-subj", "/CN=issuer", "-keyout", str(self._key), "-out", str(self.bundle)]
        subprocess.run([*command, *files], check=True, capture_output=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[dict[str, object]]:
        """Serve, and yield docker-registry's ``auth`` settings."""
        handler = type("Realm", (_Realm,), {"tokens": self})
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            yield {
                "token": {
                    "realm": f"http://localhost:{server.server_port}/token",
                    "service": "tests",
                    "issuer": "issuer",
                    "rootcertbundle": str(self.bundle),
                }
            }
            server.shutdown()

    def answer(self, query: dict[str, list[str]], authorization: str) -> dict[str, object] | None:
        """The answer to a request for a token; None where the credentials are wrong."""
        self.requests.append((query, bool(authorization)))
        if authorization and authorization != self._basic:
            return None
        access = []
        for scope in " ".join(query.get("scope", [])).split():
            kind, name, actions = scope.split(":")
            granted = actions.split(",") if authorization else ["pull"]
            access.append({"type": kind, "name": name, "actions": granted})
        token = self._sign(access)
        return {"access_token": token, "expires_in": self.seconds}

    def _sign(self, access: list[dict[str, object]]) -> str:
        pem = self.bundle.read_text().split("-----")[2]
        now = int(time.time())
        header = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(pem.split())]}
        claims = {
            "iss": "issuer", "sub": self._user, "aud": "tests", "jti": secrets.token_hex(8),
            "nbf": now - 60, "iat": now, "exp": now + self.seconds, "access": access,
        }  # fmt: skip
        payload = b".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        signature = subprocess.run(
            [need("openssl"), "dgst", "-sha256", "-sign", str(self._key)],
            input=payload,
            capture_output=True,
            check=True,
        ).stdout
        return (payload + b"." + _base64url(signature)).decode()


class _Realm(BaseHTTPRequestHandler):
    tokens: TokenServer

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        answer = self.tokens.answer(query, self.headers.get("Authorization", ""))
        body = json.dumps(answer or {}).encode()
        self.send_response(401 if answer is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class ConnectProxy:
    """A proxy that makes tunnels (RFC 9110, 9.3.6), wherever to: all names are this machine.

    ``asked`` are the targets with the proxy's credentials that came; ``ports`` are those
    that others stand for here.
    """

    def __init__(self) -> None:
        self.ports: dict[int, int] = {}
        self.asked: list[tuple[str, str]] = []
        handler = type("Tunnel", (_Tunnel,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.host = f"localhost:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Tunnel(BaseHTTPRequestHandler):
    proxy: ConnectProxy

    def do_CONNECT(self) -> None:
        self.proxy.asked.append((self.path, self.headers.get("Proxy-Authorization", "")))
        port = int(self.path.rpartition(":")[2])
        port = self.proxy.ports.get(port, port)
        with socket.create_connection(("127.0.0.1", port)) as there:
            self.send_response(200)
            self.end_headers()
            self.wfile.flush()
            back = threading.Thread(target=self._copy, args=(there, self.connection), daemon=True)
            back.start()
            self._copy(self.connection, there)
            back.join()
        self.close_connection = True

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                target.sendall(piece)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _base64url(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def certificate(directory: Path) -> tuple[Path, Path, Path]:
    """A certificate authority of our own and a certificate for localhost: ca, cert, key."""
    openssl = need("openssl")
    ca, ca_key = directory / "ca.pem", directory / "ca.key"
    request, key, signed = directory / "l.csr", directory / "l.key", directory / "l.pem"
    names = directory / "names"
    names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    new = [openssl, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    for command in (
        [*new, "-x509", "-days", "2", "-subj", "/CN=test authority", "-keyout", ca_key, "-out", ca],
        [*new, "-subj", "/CN=localhost", "-keyout", key, "-out", request],
        [openssl, "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial",
         "-days", "2", "-extfile", names, "-out", signed],
    ):  # fmt: skip
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return ca, signed, key


def htpasswd(path: Path, user: str, password: str) -> Path:
    """A file of users for docker-registry, which reads bcrypt alone."""
    bcrypt = pytest.importorskip("bcrypt", reason="the Python package bcrypt is missing")
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    path.write_text(f"{user}:{hashed}\n")
    return path


def skopeo(*arguments: str) -> str:
    """Run skopeo and return what it prints; skips the test where it is missing."""
    done = subprocess.run(
        [need("skopeo"), *arguments], capture_output=True, text=True, env=without_proxies()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def need(program: str) -> str:
    """The path of a program, or the test is skipped."""
    found = shutil.which(program)
    if not found:
        pytest.skip(f"the program {program} is missing")
    return found


def free_port() -> int:
    """A port of the loopback address that nobody uses now, nor gets who asks for any port."""
    while True:
        # Below what the kernel gives away.
        port = secrets.choice(range(10_000, 32_768))
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server listens; `RuntimeError` where it ends, with its log."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"{log.stem} does not start: {log.read_text()[-2000:]}")


def without_proxies() -> dict[str, str]:
    """The environment without proxies: all servers are on this machine."""
    return {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
