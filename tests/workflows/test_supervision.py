"""Supervision that fails: a node that cannot look, or is drained again and again, while the command runs."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from activities.node import BROKEN_TRIES, NodeWork
from domain.lifecycle import Step
from domain.messages import AgentExit, AgentOrder
from domain.names import SignalName
from tests.workflows.scenes import scene
from tests.workflows.stage import Stage
from workspaces import sessions
from workspaces.local import LocalProvider, base_environment
from workspaces.secrets import Secrets


def node_work(root: Path, client: httpx2.AsyncClient) -> NodeWork:
    """Give a real node's work on this directory."""
    provider = LocalProvider(
        root, environment=base_environment({}, allowed=[]), secrets=Secrets(file=None, environment={}), presets={}
    )
    return NodeWork({"local": provider}, client=client, token="")


def exit_file(root: Path, order: AgentOrder, content: str) -> None:
    """Leave the mark of a turn's end."""
    file = root / order.order.workspace_id / "control" / f"{sessions.turn_name(order)}.exit.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


@pytest.mark.parametrize("mended", [False, True], ids=["lasting", "passing"])
async def test_a_supervision_that_always_fails(stage: Stage, tmp_path: Path, *, mended: bool) -> None:
    """Failed as infrastructure after ten tries in a row, long before any cap; what passes before is no failure."""
    tries = 0
    async with httpx2.AsyncClient() as client, scene(stage, Step.WORKSPACE_READY) as at:
        work = node_work(tmp_path, client)

        async def supervise(order: AgentOrder) -> AgentExit:
            nonlocal tries
            tries += 1
            well = mended and tries == BROKEN_TRIES - 2
            exit_file(tmp_path, order, '{"exit_code": 0, "result": 7, "error": null}' if well else "{")
            return await work.supervise_agent(order)

        at.node.script["supervise_agent"] = supervise
        await at.task.signal(SignalName.WORKSPACE_READY)
        row = await at.task.end()
        found: dict[str, Any] = row["error"] or {}
        if mended:
            assert (row["status"], row["result"], tries) == ("completed", 7, BROKEN_TRIES - 2)
        else:
            told = (found["code"], found["category"], found["retryable"], tries)
            assert told == ("supervision_failed", "infrastructure", True, BROKEN_TRIES)
            assert "JSONDecodeError" in found["message"]
        await at.assert_clean()
