"""The one way out of a container: a relay on the node, from a socket that the container sees to the API's address.

It is a process of its own, so that callbacks come through while the node is drained or started anew.
"""

import sys
import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from domain.errors import Category, Failure
from workspaces import processes
from workspaces.launcher import FLAGS, PROGRAM, STARTED_WITHIN, gone
from workspaces.volume import Volume

SOCKET: Final = "api.sock"
PORTS: Final = {"http": 80, "https": 443}
LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True)
class Address:
    """Where the API is, and what leads there from within a container."""

    url: str
    host: str
    port: int
    name: str | None

    @property
    def target(self) -> str:
        """The relay's target on the node."""
        return f"tcp:{self.host}:{self.port}"

    @property
    def listen(self) -> str:
        """Where the relay in the container listens."""
        return f"tcp:{LOOPBACK}:{self.port}"


def address(callback_url: str) -> Address:
    """Return the way to a callback URL.

    A host's name stays and leads to loopback within the container, so that TLS is between the workspace and the API. An
    address has no name there, and is replaced by loopback's. Raises Failure `callback_address`.
    """
    parts = urlsplit(callback_url)
    host, port = parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)
    try:
        ip_address(host)
    except ValueError:
        return Address(callback_url, host, port, None if host == "localhost" else host)
    if parts.scheme == "https":
        raise Failure(
            "callback_address",
            f"A container cannot reach the API by TLS at {host}: it is an address and no name.",
            category=Category.INFRASTRUCTURE,
            guidance="Give TASKRUNNER_URL a host name.",
        )
    return Address(urlunsplit(parts._replace(netloc=f"{LOOPBACK}:{port}")), host, port, None)


def open_gate(layout: Volume, target: str) -> None:
    """Start the relay, unless one listens; return when one does. Raises Failure `gate_closed`, `workspace_gone`."""
    deadline = time.monotonic() + STARTED_WITHIN
    pid = 0
    while not (processes.held(layout.gate_lock) and processes.holder(layout.gate_lock)):
        if not layout.gate.is_dir():
            raise gone(layout.workspace_id)
        if time.monotonic() > deadline:
            message = "The way from the workspace to the API could not be opened."
            raise Failure("gate_closed", message, category=Category.INFRASTRUCTURE, transient=True)
        if not (pid and processes.running(pid)):
            listen = f"unix:{layout.gate / SOCKET}"
            pid = processes.spawn(
                [sys.executable, *FLAGS, str(PROGRAM), "relay", listen, target, str(layout.gate_lock)],
                {"LANG": "C.UTF-8", processes.MARK: layout.workspace_id},
                stdin=b"",
                output=layout.base / "gate.log",
            )
        time.sleep(processes.POLL / 5)
