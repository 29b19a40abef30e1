"""Webhooks: where they may go, when a delivery is tried again, and when it is given up."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork

from domain.durations import Span

# A receiver that does its work before it answers is one that fails: it should take the message, and answer.
TRY_LIMIT: Final = timedelta(seconds=15)
# While a secret is rotated both sign.
OVERLAP: Final = timedelta(hours=24)
MOST_OF_A_PROJECT: Final = 50
_LONGEST_URL: Final = 2000
# 5 s, 20 s, 80 s, 5 min, 21 min, 85 min, then every 4 h.
_FIRST_DELAY: Final = timedelta(seconds=5)
_FACTOR: Final = 4
_LONGEST_DELAY: Final = timedelta(hours=4)
# A receiver may ask for more time than ours, but not for so much that nobody remembers.
_LONGEST_WAIT: Final = timedelta(days=1)
_VISIBLE: Final = re.compile(r"[!-\[\]-~]+")  # no space, no backslash, which some readers take for a slash
_HOST: Final = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")

Port = Annotated[int, Field(ge=1, le=65535)]


class Webhooks(BaseModel):
    """Where deliveries go, and for how long they are tried."""

    model_config = ConfigDict(frozen=True)

    allowed_networks: tuple[IPvAnyNetwork, ...] = Field(
        default=(), description="JSON; networks that may be called although they are not public, as `10.1.0.0/16`."
    )
    ports: tuple[Port, ...] = Field(default=(443, 8443), description="JSON; ports that may be called.")
    ca_file: Path | None = Field(default=None, description="Authorities beside the system's, as a PEM file.")
    give_up_after: Span = Field(
        default=timedelta(days=3), description="When a delivery that never succeeded has its last try."
    )


class Target(BaseModel):
    """An address taken apart once, so that whoever checks it and whoever calls it read the same."""

    model_config = ConfigDict(frozen=True)

    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"  # noqa: PLR2004 - of https


def target_of(url: str, settings: Webhooks) -> Target:
    """Return where a webhook's URL leads; raises ValueError, which says what it must be. No name is looked up."""
    if len(url) > _LONGEST_URL or not _VISIBLE.fullmatch(url):
        raise ValueError(f"must be at most {_LONGEST_URL} visible ASCII characters without a backslash")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", 443 if parts.port is None else parts.port
    except ValueError:
        raise ValueError("must name a host, and a port that is a number") from None
    if parts.scheme != "https":
        raise ValueError("must begin with https://")
    if "@" in parts.netloc or "#" in url:
        raise ValueError("must have no user, password or fragment")
    if not _HOST.fullmatch(host):
        raise ValueError("must name a host in ASCII (an international name in its xn-- form)")
    if port not in settings.ports:
        allowed = ", ".join(str(allowed) for allowed in settings.ports)
        raise ValueError(f"must use a port that deliveries may go to: {allowed}")
    return Target(host=host, port=port, target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""))


def next_try(tries: int, *, dice: float, asked: timedelta | None = None) -> timedelta:
    """Return how long to wait after so many failed tries; `dice` in 0 … 1 spreads it by a quarter to either side.

    What the receiver `asked` for with Retry-After is waited for at least.
    """
    factor: int = _FACTOR ** min(tries - 1, 10)
    delay = min(_FIRST_DELAY * factor, _LONGEST_DELAY) * (0.75 + dice / 2)
    return max(delay, min(asked or timedelta(0), _LONGEST_WAIT))
