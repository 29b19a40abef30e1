"""The part of the gateway that reaches the orchestrators of runs."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from domain.failpoints import boundary
from domain.lifecycle import RunStatus
from domain.names import RUN_ORCHESTRATOR, RunId, SignalName, run_workflow_id
from domain.reconcile import Sight
from domain.run import Endings, RunInput
from workflows import sights
from workflows.sending import SIGNAL_LIMIT, START_LIMIT, TASK_TIMEOUT, Sent, attributes, claim, unreachable

# By this a run's workflow says which attempt it is: all have one id.
ATTEMPT: Final = "attempt"
_RUN: Final = re.compile(r"run-(?P<run>.+)")


class RunGateway:
    """Start, tell, steer and cancel RunOrchestrators, in the manner of `Gateway`, which has one."""

    def __init__(self, client: Client, *, queue: str) -> None:
        self._client = client
        self._queue = queue

    async def start(self, argument: RunInput) -> Sent:
        """Start the orchestrator of a run's attempt; one that was started before counts as started.

        All attempts of a run have one id. While the workflow of an earlier one is about to close, the answer is that
        it cannot be reached yet.
        """
        # An orchestrator that was lost begins anew, of rows that its flushes have left.
        first = argument.attempt == 1 and not argument.state.flush_base
        reuse = WorkflowIDReusePolicy.REJECT_DUPLICATE if first else WorkflowIDReusePolicy.ALLOW_DUPLICATE
        try:
            with boundary("engine.start_run"):
                await self._client.start_workflow(
                    RUN_ORCHESTRATOR,
                    argument,
                    id=run_workflow_id(argument.run_id),
                    task_queue=self._queue,
                    task_timeout=TASK_TIMEOUT,
                    id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                    id_reuse_policy=reuse,
                    memo={ATTEMPT: argument.attempt},
                    search_attributes=attributes(RunStatus.QUEUED, argument.project, argument.run_id),
                    static_summary=f"{argument.name} · attempt {argument.attempt}",
                    priority=claim(argument.priority, argument.project),
                    rpc_timeout=START_LIMIT,
                )
        except WorkflowAlreadyStartedError:
            return Sent.DELIVERED if first else await self._begun(argument)
        except (RPCError, RuntimeError) as error:
            return unreachable(error)
        return Sent.DELIVERED

    async def _begun(self, argument: RunInput) -> Sent:
        """Say whether the workflow that has this run's id is the one of this attempt."""
        try:
            with boundary("engine.begun"):
                found = await self._handle(argument.run_id).describe(rpc_timeout=sights.LOOK_LIMIT)
            attempt = await found.memo_value(ATTEMPT, default=0)
        except (RPCError, RuntimeError, ValueError):
            return Sent.UNREACHABLE
        return Sent.DELIVERED if attempt == argument.attempt else Sent.UNREACHABLE

    async def tell(self, run: RunId, endings: Endings) -> Sent:
        """Tell a run which of its tasks have ended."""
        try:
            with boundary("engine.tell_run"):
                await self._handle(run).signal(SignalName.TASK_ENDED.value, endings, rpc_timeout=SIGNAL_LIMIT)
        except (RPCError, RuntimeError) as error:
            return unreachable(error)
        return Sent.DELIVERED

    async def steer(self, run: RunId) -> Sent:
        """Have a run look at its row."""
        try:
            with boundary("engine.steer_run"):
                await self._handle(run).signal(SignalName.RUN_STEERED.value, rpc_timeout=SIGNAL_LIMIT)
        except (RPCError, RuntimeError) as error:
            return unreachable(error)
        return Sent.DELIVERED

    async def cancel(self, run: RunId) -> Sent:
        """Ask a run to cancel itself, as the Temporal UI's button does."""
        try:
            with boundary("engine.cancel_run"):
                await self._handle(run).cancel(rpc_timeout=SIGNAL_LIMIT)
        except (RPCError, RuntimeError) as error:
            return unreachable(error)
        return Sent.DELIVERED

    async def look(self, run: RunId) -> Sight:
        """Say what became of a run's workflow, whichever attempt of it is the last."""
        return await sights.look(self._client, run_workflow_id(run))

    async def killed(self, since: datetime, *, limit: int) -> Sequence[str]:
        """Return runs whose workflows were terminated or timed out lately: a hint where to look first."""
        names = map(_RUN.fullmatch, await sights.killed(self._client, RUN_ORCHESTRATOR, since, limit))
        return [name["run"] for name in names if name]

    def _handle(self, run: RunId) -> WorkflowHandle[Any, Any]:
        return self._client.get_workflow_handle(run_workflow_id(run))
