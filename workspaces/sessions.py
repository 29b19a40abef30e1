"""What a provider writes into a session's file: `workspaces.inside.session` reads it."""

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final

from domain.messages import AgentOrder, WorkspaceOrder
from workspaces.inside import trees
from workspaces.presets import Invocation

ARTIFACT_LIMIT: Final = 100_000_000
LARGEST: Final = 8_000_000  # bytes of a session file: a task's body, and what JSON makes of it
MOST: Final = 1000  # sessions of one workspace
NAME: Final = re.compile(r"prepare-\d{1,9}|agent-a\d{1,9}-t\d{1,9}")
PROTOCOLS: Final = ("https", "ssh", "git")


def preparation(generation: int) -> str:
    """Return the name of a preparation: there is another one only if the first died without a word."""
    return f"prepare-{generation}"


def turn_name(agent: AgentOrder) -> str:
    """Return the name of one turn of one attempt: a retained workspace may see several attempts."""
    return f"agent-a{agent.order.attempt}-t{agent.turn}"


def names(control: Path, suffix: str) -> list[str]:
    """Return the sessions that have such a file here, no more than a task can have."""
    found = (path.name.removesuffix(f".{suffix}") for path in control.glob(f"*.{suffix}"))
    return sorted(islice((name for name in found if NAME.fullmatch(name)), MOST))


def latest_attempt(control: Path) -> int:
    """Return the highest attempt that had a session here; 0 when none had."""
    return max((_attempt(control, name) for name in names(control, "json")), default=0)


def _attempt(control: Path, name: str) -> int:
    """Return the attempt of a session; 0 when its file is none of ours any more: commands may write beside it."""
    try:
        with trees.opened(control, f"{name}.json") as file:
            return int(json.loads(file.read(LARGEST))["environment"]["TASKRUNNER_ATTEMPT"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def variables(order: WorkspaceOrder, paths: Mapping[str, str], callback_url: str, turn: int) -> dict[str, str]:
    """Return the TASKRUNNER_ environment of a command, and the task's trace if it has one."""
    trace = {"TRACEPARENT": order.traceparent} if order.traceparent else {}
    return trace | {
        "TASKRUNNER_TASK_ID": order.task_id,
        "TASKRUNNER_ATTEMPT": str(order.attempt),
        "TASKRUNNER_TURN": str(turn),
        "TASKRUNNER_WORKSPACE_ID": order.workspace_id,
        "TASKRUNNER_CALLBACK_URL": callback_url,
        "TASKRUNNER_TOKEN_FILE": paths["token"],
        "TASKRUNNER_INPUT_FILE": paths["input"],
        "TASKRUNNER_RESULT_FILE": paths["result"],
        "TASKRUNNER_ARTIFACTS_DIR": paths["artifacts"],
        "TASKRUNNER_ATTACHMENTS_DIR": paths["attachments"],
    }


def content(
    order: WorkspaceOrder,
    *,
    base: Mapping[str, str],
    paths: Mapping[str, str],
    callback_url: str,
    heartbeat: timedelta,
    allow_file_urls: bool,
    limits: Mapping[str, float],
    confined: bool = False,
    invocation: Invocation | None = None,
    turn: int = 1,
) -> str:
    """Return a session file. `base` is the environment of the place: PATH, HOME, locale, what the node lets through.

    `limits` are those of the task's resources that the program itself sets; in a container (`confined`) the others hold
    for everything in it.
    """
    spec = order.spec
    body: dict[str, Any] = {
        "workspace_id": order.workspace_id,
        "callback_url": callback_url,
        "lease_seconds": order.lease_seconds,
        "heartbeat_seconds": heartbeat.total_seconds(),
        "log_limit": order.log_limit,
        "result_limit": order.result_limit,
        "artifact_limit": ARTIFACT_LIMIT,
        "traceparent": order.traceparent,
        "environment": {**base, **spec.env, **variables(order, paths, callback_url, turn)},
        "secrets": list(spec.secrets),
        "resources": dict(limits),
        "confined": confined,
        "repo": spec.repo.model_dump() if spec.repo else None,
        "protocols": ":".join((*PROTOCOLS, "file") if allow_file_urls else PROTOCOLS),
        "setup": spec.setup,
        "argv": invocation.argv if invocation else [],
        "stdin": invocation.stdin if invocation else None,
        "artifacts": list(spec.artifacts),
        "paths": dict(paths),
    }
    return json.dumps(body)
