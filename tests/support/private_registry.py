"""A registry that shows some repositories to nobody but its user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.registry import FullHandler, FullRegistry

USER, PASSWORD = "reader", "hunter2"


class PrivateRegistry(FullRegistry):
    """Everybody may read but what is below ``private/``; strangers are told ``says`` there.

    With ``silent`` no stranger gets an answer at all.
    """

    def __init__(self, root: Path, port: int = 0, *, says: int = 401, **options: Any) -> None:
        super().__init__(root, port, users={USER: PASSWORD}, **options)
        self.says = says
        self.silent = False

    def handler_class(self) -> type[FullHandler]:
        return PrivateHandler

    def settings(self) -> dict[str, str]:
        """What the configuration says of it, for whoever has `credentials` in the environment."""
        return {"scheme": "http", "username_env": "R_USER", "password_env": "R_PASSWORD"}


CREDENTIALS = {"R_USER": USER, "R_PASSWORD": PASSWORD}


class PrivateHandler(FullHandler):
    registry: PrivateRegistry

    def may(self, name: str) -> bool:
        if self.registry.user_of(self.headers.get("Authorization", "")):
            return True
        if name and self.registry.silent:
            self.refuse(503, "UNAVAILABLE", "not now")
            return False
        if name and not name.startswith("private/"):
            return True
        says = self.registry.says if name else 401
        challenge = {"WWW-Authenticate": 'Basic realm="tests"'} if says == 401 else {}
        self.refuse(says, "DENIED", "requested access to the resource is denied", challenge)
        return False
