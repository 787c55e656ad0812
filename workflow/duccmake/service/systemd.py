"""What systemd wants to hear (sd_notify(3)): a datagram now and then."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


class Service:
    """Tells systemd how we are, if it started us; silent otherwise."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        env = os.environ if environment is None else environment
        self._address = env.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        mine = env.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_seconds = int(env.get("WATCHDOG_USEC", "0")) / 1e6 if mine else 0.0

    def tell(self, *lines: str) -> None:
        """Send ``NAME=VALUE`` lines; a systemd that does not listen is no reason to stop."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.connect(self._address)
                out.send("\n".join(lines).encode())
        except OSError:
            pass

    def ready(self, status: str) -> None:
        """Started, or done with reloading."""
        self.tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """About to read the configuration again."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str, seconds: float) -> None:
        """About to stop, which may take so many seconds more."""
        self.tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}", f"STATUS={status}")

    def alive(self) -> None:
        """Not stuck."""
        self.tell("WATCHDOG=1")

    def status(self, text: str) -> None:
        """A line for ``systemctl status``."""
        self.tell(f"STATUS={text}")
