"""Invariants 2 and 6: effects took place once, and only those that were asked for."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator

from domain.events import EventType
from domain.spec import Provider
from tests.faults.snapshot import Snapshot

SUCCESS, REFUSED, UNAUTHORIZED = range(200, 300), range(400, 500), 401


def once(snapshot: Snapshot) -> Iterator[str]:
    """Never two agents of a task, never none where the log says that one ran; each execution exists once."""
    counts = Counter((effect.task, effect.attempt, effect.turn, effect.what) for effect in snapshot.effects)
    for (task, attempt, turn, what), count in counts.items():
        if what == "double":
            yield f"{task}, attempt {attempt}: an agent began while another one lived"
        elif count > 1:
            yield f"{task}, attempt {attempt}, turn {turn}: {what} took place {count} times"
    for task, attempt, turn in _ends_of_ours(snapshot):
        if counts[task, attempt, turn, "start"] == 0:
            yield f"{task}, attempt {attempt}: the log says that the agent ended, and it never began"
    for execution in snapshot.executions.values():
        if execution.runs > 1:
            yield f"{execution.workflow_id} was started {execution.runs} times"


def _ends_of_ours(snapshot: Snapshot) -> Iterator[tuple[str, int, int]]:
    """Give the turns of agents on our nodes that ended with an exit code of their own."""
    for task, row in snapshot.tasks.items():
        if row["spec"].get("provider", Provider.LOCAL) == Provider.EXTERNAL:
            continue
        for event in snapshot.logs.get(task, ()):
            told = event.type is EventType.AGENT_FINISHED and event.data.get("exit_code") is not None
            # A command that could not be executed has an exit code, an error and no effect.
            if told and not event.data.get("error"):
                yield task, event.attempt, event.data.get("turn", 1)


def callbacks(snapshot: Snapshot) -> Iterator[str]:
    """What was refused left no trace; of those that were taken in, one content each; no effect without its row."""
    taken: dict[tuple[str, int, str, int], set[str]] = defaultdict(set)
    for told in snapshot.told:
        if told.status in SUCCESS:
            taken[told.workspace, told.attempt, told.kind, told.turn].add(told.nonce)
    for (workspace, attempt, kind, turn), nonces in taken.items():
        if len(nonces) > 1:
            yield f"{kind} of {workspace}, attempt {attempt}, turn {turn}, was taken in with {len(nonces)} contents"
    yield from _refusals(snapshot, frozenset(nonce for nonces in taken.values() for nonce in nonces))
    yield from _unknown(snapshot)


def _refusals(snapshot: Snapshot, taken: frozenset[str]) -> Iterator[str]:
    """A repeat of what was taken in may be refused after the end; its content is known all the same."""
    traces = {
        task: json.dumps([[event.data for event in log], snapshot.tasks.get(task, {}).get("result")])
        for task, log in snapshot.logs.items()
    }
    kept = json.dumps([row["body"] for row in snapshot.inbox])
    doubtful = {told.nonce for told in snapshot.told if told.in_doubt and told.ours}
    for told in snapshot.told:
        if not told.ours and told.status != UNAUTHORIZED:
            yield f"a forged {told.kind} for {told.task} was answered {told.status}"
        if told.status not in REFUSED or told.nonce in taken | doubtful:
            continue
        if told.nonce in traces.get(told.task, "") + kept:
            yield f"a {told.kind} for {told.task} was refused with {told.status} and had an effect"


def _unknown(snapshot: Snapshot) -> Iterator[str]:
    kept = {(row["workspace_id"], row["attempt"]) for row in snapshot.inbox if row["kind"] in ("ready", "finished")}
    for task, log in snapshot.logs.items():
        for event in log:
            if event.type is EventType.WORKSPACE_READY:
                spaces = {w["id"] for w in snapshot.workspaces if (w["task_id"], w["attempt"]) == (task, event.attempt)}
                if not {(space, event.attempt) for space in spaces} & kept:
                    yield f"{task}, attempt {event.attempt}: the workspace counts as ready, and the inbox knows nothing"
