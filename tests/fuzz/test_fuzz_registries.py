"""Answers that no registry gives, or only one that means ill."""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from bounds import confined, examples
from hypothesis import event, given
from hypothesis import strategies as st
from mutations import ANY_BYTES, applied, documents

from duccmake.demo.images import Image
from duccmake.errors import DuccmakeError
from duccmake.oci.content_store import ContentStore
from duccmake.oci.manifest import ImageConfig, parse_manifest
from duccmake.oci.reference import Digest, Reference
from duccmake.registry.client import Client
from support.images import LayerBuilder
from support.samples import AMD64

_IMAGE = Image((LayerBuilder().file("a", "a" * 3000).layer(),), {}, platform=AMD64)
_MANIFEST = parse_manifest(_IMAGE.manifest_bytes)
_LAYER = _IMAGE.layers[0].blob
_DIGEST = str(_IMAGE.digest)


@dataclass
class Server:
    """Gives the answers that it has, one a request and the last one ever after."""

    listener: socket.socket
    answers: Sequence[bytes] = ()
    asked: list[bytes] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                heard = b""
                while b"\r\n\r\n" not in heard:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    heard += piece
                self.asked.append(heard)
                answers = self.answers
                connection.sendall(answers[min(len(self.asked), len(answers)) - 1])
            except OSError:
                pass


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as listener:
        found = socket.getaddrinfo

        def only_here(host: object, *arguments: object, **named: object) -> object:
            """No name is looked up anywhere else."""
            if host not in ("127.0.0.1", "localhost", b"localhost"):
                raise socket.gaierror(socket.EAI_NONAME, "no such host")
            return found("127.0.0.1", *arguments, **named)  # type: ignore[arg-type]

        patch.setattr(socket, "getaddrinfo", only_here)
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        server = Server(listener)
        threading.Thread(target=server.serve, daemon=True).start()
        yield server


_NUMBERS = ["0", "-1", "1", "9" * 30, "x", "1e3", " 5", "0x10", "5, 5", "1;2"]
_HEADERS: dict[str, list[str]] = {
    "Content-Type": ["application/vnd.oci.image.manifest.v1+json", "text/html", "", "/;;="],
    "Docker-Content-Digest": [_DIGEST, "sha256:" + "0" * 64, "sha256:../../x", "md5:1"],
    "Content-Encoding": ["gzip", "gzip, gzip", "deflate", "br", "identity", ",,"],
    "Content-Range": ["bytes 0-9/10", "bytes 5-/*", "bytes */0", "lines 1-2/3", "bytes 9-1/2"],
    "Content-Length": _NUMBERS,
    "Transfer-Encoding": ["chunked", "gzip", "chunked, chunked"],
    "Location": [
        "/v2/", "", "//", "http://[", "file:///etc/passwd", "http://127.0.0.1:0/", "ftp://x/",
        "http://user:pw@127.0.0.1/", "https://127.0.0.1:99999/", "http://h.example.org/", "?",
    ],
    "Link": [
        "</v2/team/app/tags/list?n=1&last=a>; rel=next", "<>", "</>; rel=prev", "<http://[>",
        '</v2/x>; rel="next last', ",;,", "<//h.example.org/v2/>",
    ],
    "WWW-Authenticate": [
        'Bearer realm="http://127.0.0.1/token",service="x"', "Basic", 'Bearer realm=""', "Bearer",
        'Bearer realm="file:///etc/passwd"', 'Bearer realm="http://["', 'Bearer realm="/token"',
        'Bearer realm="http://h.example.org/t",scope="a,b"', 'Basic realm="x", Bearer realm="y"',
        "Negotiate", 'Bearer realm="http://127.0.0.1:99999/"', ',,=,"',
    ],
    "Retry-After": [
        *_NUMBERS, "Mon, 01 Jan 2024 00:00:00 GMT", "Mon, 01 Jan 0000 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 -2359", "Mon, 01 Jan 2024 00:00:00 +99999999999999",
        "1 Jan 24 0:0:0 -0000", "Mon, 99 Foo 2024 25:61:61 X",
    ],
    "RateLimit-Remaining": [*_NUMBERS, "0;w=21600", ";w=x"],
    "RateLimit-Limit": [*_NUMBERS, "100;w=21600"],
    "RateLimit-Reset": _NUMBERS,
    "Set-Cookie": ["a=b", "=;"],
    "Date": ["x", "Mon, 01 Jan 2024 00:00:00 GMT"],
    "ETag": ['"x"', ""],
}  # fmt: skip


@st.composite
def _headers(draw: st.DrawFn) -> list[tuple[str, str]]:
    names = draw(st.lists(st.sampled_from(sorted(_HEADERS)), max_size=4))
    odd = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20)
    return [(name, draw(st.one_of(*[st.sampled_from(_HEADERS[name])] * 3, odd))) for name in names]


_BODIES = st.one_of(
    st.sampled_from(
        [
            _IMAGE.manifest_bytes,
            _IMAGE.config_bytes,
            _LAYER,
            _LAYER[:100],
            b"",
            b"<html>",
            b"null",
            gzip.compress(b"x" * 10**6),
            gzip.compress(_IMAGE.manifest_bytes),
            _LAYER + b"x",
        ]
    ),
    documents(
        [
            json.loads(_IMAGE.manifest_bytes),
            {"name": "team/app", "tags": ["1", "2", "latest"]},
            {"errors": [{"code": "UNKNOWN", "message": "x", "detail": {}}]},
            {"token": "x", "access_token": "y", "expires_in": 300, "issued_at": "2024-01-01T0:0Z"},
            {"manifests": [{"digest": _DIGEST, "size": 1, "mediaType": "x", "artifactType": "y"}]},
        ]
    ),
    st.builds(applied, st.just(_IMAGE.manifest_bytes), st.lists(ANY_BYTES, max_size=2)),
)
_STATUSES = st.one_of(
    st.sampled_from([200, 200, 200, 206, 307, 401, 404, 429, 503]), st.integers(100, 999)
)


@st.composite
def _answers(draw: st.DrawFn) -> bytes:
    body, headers = draw(_BODIES), draw(_headers())
    lines = [f"HTTP/1.1 {draw(_STATUSES)} X", *(f"{name}: {text}" for name, text in headers)]
    names = {name for name, _ in headers}
    if not names & {"Content-Length", "Transfer-Encoding"}:
        lines.append(f"Content-Length: {len(body) + draw(st.sampled_from([0, 0, 0, 1, -1]))}")
    lines.append("Connection: close")
    found = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body
    spoilt = draw(st.lists(ANY_BYTES, max_size=1)) if draw(st.integers(0, 9)) == 0 else []
    return applied(found, spoilt)


def _ask(client: Client, reference: Reference, what: str, directory: Path) -> None:
    """Each answer is right, or an error."""
    descriptor = _MANIFEST.layers[0]
    if what == "poll":
        assert isinstance(client.poll(reference), Digest)
    elif what == "manifest":
        client.manifest(reference)
    elif what == "its digest":
        found = client.manifest(reference, _MANIFEST.digest)
        assert found.raw == _IMAGE.manifest_bytes
    elif what == "tags":
        assert all(isinstance(tag, str) for tag in client.tags(reference))
    elif what == "configuration":
        raw = client.blob_bytes(reference, _MANIFEST.config)
        assert ImageConfig.parse(raw) and raw == _IMAGE.config_bytes
    elif what == "beside":
        beside = client.beside(reference, ContentStore(directory / "store"))
        beside.referrers(_MANIFEST.digest)
        found = beside.artifact(f"sha256-{_MANIFEST.digest.hex}.sig")
        assert found is None or found.digest.hex == hashlib.sha256(found.raw).hexdigest()
    elif what == "push":
        client.push_blob(reference, descriptor, _LAYER, mount_from="team/other")
        client.push_manifest(reference, _IMAGE.manifest_bytes, _MANIFEST.media_type)
    elif what == "open":
        client.is_open(reference)
        client.has_referrers(reference, _MANIFEST.digest)
    else:
        client.fetch_blob(reference, descriptor, directory / "blob")
        assert (directory / "blob").read_bytes() == _LAYER


@examples(80)
@given(
    st.lists(_answers(), min_size=1, max_size=4),
    st.sampled_from(
        [
            "poll",
            "manifest",
            "its digest",
            "tags",
            "configuration",
            "open",
            "layer",
            "layer",
            "beside",
            "push",
        ]
    ),
    st.booleans(),
)
def test_whatever_a_registry_answers_is_right_or_an_error(
    server: Server, answers: list[bytes], what: str, known: bool
):
    server.answers, server.asked = answers, []
    reference = Reference.parse(f"http://127.0.0.1:{server.port}/team/app:1")
    client = Client(
        {}, deadline_seconds=0.4, tries=3, backoff_seconds=0.001, connect_seconds=1.0,
        environment={},
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="fuzz") as directory, confined(directory):
        if known:
            Path(directory, "blob.part").write_bytes(_LAYER[:50])
        try:
            _ask(client, reference, what, Path(directory))
        except DuccmakeError as error:
            event(f"{what}: {type(error).__name__}")
            assert len(str(error).splitlines()) == 1
            assert not Path(directory, "blob").exists()
        else:
            event(f"{what}: answered")
        finally:
            client.close()
        assert {path.name for path in Path(directory).iterdir()} <= {
            "blob", "blob.part", "blob.lock", "blob.part.lock", "store",
        }  # fmt: skip
    # Nothing in an answer makes us ask without end.
    assert len(server.asked) < 60
