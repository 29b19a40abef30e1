"""The provider `local`: a directory of its own and processes of its own. No isolation: limits and a clean environment.

The processes belong to the node's user, who can read what that user can. What must not see the node's files belongs
into a container.
"""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from domain.messages import WorkspaceOrder
from workspaces import processes
from workspaces.hosted import HostedProvider
from workspaces.launcher import Spawner
from workspaces.layout import Layout
from workspaces.presets import Invocation
from workspaces.provider import Grant
from workspaces.secrets import Secrets


def base_environment(environment: Mapping[str, str], *, allowed: Sequence[str] = ()) -> dict[str, str]:
    """Return what commands get of the node's environment: PATH, locale, and the names that settings allow."""
    given = {name: environment[name] for name in allowed if name in environment}
    locale = {"LANG": environment.get("LANG") or "C.UTF-8"}
    if environment.get("LC_ALL"):
        locale["LC_ALL"] = environment["LC_ALL"]
    return {"PATH": environment.get("PATH") or os.defpath, **locale, **given}


class LocalProvider(HostedProvider):
    """Workspaces as directories, with processes of this machine."""

    _launcher: Spawner

    def __init__(
        self,
        root: Path,
        *,
        environment: Mapping[str, str],
        secrets: Secrets | None = None,
        presets: Mapping[str, Sequence[str]] | None = None,
        allow_file_urls: bool = False,
        heartbeat: timedelta = timedelta(seconds=15),
        grace: timedelta = timedelta(seconds=2),
        python: str = sys.executable,
        certificates: Mapping[str, str] | None = None,
    ) -> None:
        launcher = Spawner(
            environment=environment,
            secrets=secrets or Secrets(),
            allow_file_urls=allow_file_urls,
            heartbeat=heartbeat,
            python=python,
            certificates=certificates or {},
        )
        super().__init__(root, launcher=launcher, presets=presets, grace=grace)

    async def _open(self, layout: Layout, order: WorkspaceOrder, grant: Grant) -> dict[str, Any]:
        del order, grant
        await asyncio.to_thread(layout.make)
        return {}

    async def _launch(
        self,
        layout: Layout,
        mode: str,
        name: str,
        order: WorkspaceOrder,
        grant: Grant,
        *,
        called: Invocation | None = None,
        turn: int = 1,
    ) -> tuple[int, bool]:
        return await asyncio.to_thread(self._launcher.start, layout, mode, name, order, grant, called=called, turn=turn)

    async def _end(self, layout: Layout, *, grace: float) -> tuple[int, int]:
        return await asyncio.to_thread(processes.end_all, layout.workspace_id, grace=grace)

    async def _remove(self, layout: Layout) -> None:
        await asyncio.to_thread(layout.remove)

    async def _released(self, lock: Path, *, within: float) -> None:
        await processes.ended(lock, within=within)
