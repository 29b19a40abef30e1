"""What a provider writes into a session's file: `workspaces.inside.session` reads it."""

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from domain.messages import AgentOrder, WorkspaceOrder
from workspaces.presets import Invocation

ARTIFACT_LIMIT: Final = 100_000_000
PROTOCOLS: Final = ("https", "ssh", "git")


def preparation(generation: int) -> str:
    """Return the name of a preparation: there is another one only if the first died without a word."""
    return f"prepare-{generation}"


def turn_name(agent: AgentOrder) -> str:
    """Return the name of one turn of one attempt: a retained workspace may see several attempts."""
    return f"agent-a{agent.order.attempt}-t{agent.turn}"


def latest_attempt(control: Path) -> int:
    """Return the highest attempt that had a session here; 0 when none had."""
    files = [path for kind in ("prepare-*.json", "agent-*.json") for path in control.glob(kind)]
    bodies = [json.loads(path.read_text("utf-8")) for path in files if not path.name.endswith(".exit.json")]
    return max((int(body["environment"]["TASKRUNNER_ATTEMPT"]) for body in bodies), default=0)


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
    invocation: Invocation | None = None,
    turn: int = 1,
) -> str:
    """Return a session file. `base` is the environment of the place: PATH, HOME, locale, what the node lets through."""
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
        "resources": spec.resources.model_dump(exclude_none=True),
        "repo": spec.repo.model_dump() if spec.repo else None,
        "protocols": ":".join((*PROTOCOLS, "file") if allow_file_urls else PROTOCOLS),
        "setup": spec.setup,
        "argv": invocation.argv if invocation else [],
        "stdin": invocation.stdin if invocation else None,
        "artifacts": list(spec.artifacts),
        "paths": dict(paths),
    }
    return json.dumps(body)
