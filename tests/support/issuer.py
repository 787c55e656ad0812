"""An issuer of tokens, as GitLab and GitHub Actions are: it says over HTTP what its keys are."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

AUDIENCE = "https://publish.example.org"


@cache
def private_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key that is the same for the same name, as long as the tests run."""
    return rsa.generate_private_key(65537, bits)


def public_pem(name: str) -> bytes:
    """The public half of such a key, for anybody to have."""
    return (
        private_key(name)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def jwk(name: str, **members: Any) -> dict[str, Any]:
    """A key as a set of keys has it, called by its name."""
    public = jwt.algorithms.RSAAlgorithm.to_jwk(private_key(name).public_key(), as_dict=True)
    return {**public, "kid": name, "use": "sig", "alg": "RS256", **members}


def claims(issuer: str, **members: Any) -> dict[str, Any]:
    """The claims of a job's token, but for those that are said otherwise; None leaves one out.

    What is a function is asked with the time at which the token is made.
    """
    now = int(time.time())
    found = {
        "iss": issuer,
        "aud": AUDIENCE,
        "sub": "project_path:team/app:ref_type:branch:ref:main",
        "project_path": "team/app",
        "ref": "main",
        "ref_protected": "true",
        "iat": now,
        "nbf": now - 5,
        "exp": now + 300,
        **members,
    }
    made = {name: value(now) if callable(value) else value for name, value in found.items()}
    return {name: value for name, value in made.items() if value is not None}


def token(members: Mapping[str, Any], key: str = "first", **header: Any) -> str:
    """A token that is signed as it should be."""
    headers = {"kid": key, **header}
    algorithm = headers.pop("alg", "RS256")
    content = json.dumps(members).encode()
    return jwt.PyJWS().encode(content, private_key(key), algorithm=algorithm, headers=headers)


def forged(
    header: Mapping[str, Any], members: Mapping[str, Any], secret: bytes | None = None
) -> str:
    """A token that no library makes: without a signature, or one by a secret (HMAC)."""
    text = b".".join(map(_base64, (json.dumps(header).encode(), json.dumps(members).encode())))
    signature = b"" if secret is None else hmac.digest(secret, text, "sha256")
    return (text + b"." + _base64(signature)).decode()


def _base64(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


class Issuer:
    """A running issuer; ``path`` follows its host, as with a GitLab below a path."""

    def __init__(self, port: int, path: str) -> None:
        self.url = f"http://127.0.0.1:{port}{path}"
        self.keys = [jwk("first")]
        self.asked: list[str] = []

    def answer(self, path: str) -> object:
        """What is at a path, or None."""
        self.asked.append(path)
        base = self.url.split("/", 3)[3:]
        prefix = f"/{base[0].rstrip('/')}" if base and base[0] else ""
        return {
            f"{prefix}/.well-known/openid-configuration": {
                "issuer": self.url,
                "jwks_uri": f"{self.url.rstrip('/')}/oauth/discovery/keys",
            },
            f"{prefix}/oauth/discovery/keys": {"keys": self.keys},
        }.get(path)


@contextmanager
def issuing(path: str = "") -> Iterator[Issuer]:
    """An issuer, for as long as the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = issuer.answer(self.path)
            content = json.dumps(found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer = Issuer(server.server_port, path)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield issuer
        finally:
            server.shutdown()
