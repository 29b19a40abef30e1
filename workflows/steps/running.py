"""Until the command or agent ends: its exit code, its result, and caps on how long it may take."""

from datetime import datetime

from temporalio import workflow
from temporalio.exceptions import ActivityError

from domain.errors import Category
from domain.events import EventSource, EventType
from domain.lifecycle import StepOutcome, TaskStatus
from domain.messages import ActivityQuery, AgentExit
from domain.names import supervise_queue
from workflows.attempt import Attempt
from workflows.mirrored import StepFailed
from workflows.policies import AT_ONCE, SUPERVISE_HEARTBEAT, SUPERVISE_RETRY
from workflows.ports import MirrorActivities, NodeActivities
from workflows.steps.agent_session import agent_order

SOFT, HARD, ABSOLUTE, IDLE = "soft", "hard", "absolute", "idle"


async def running(attempt: Attempt) -> StepOutcome:
    """The workspace's `finished` ends it; so does the node's own look at the process, whichever comes first."""
    state = attempt.state
    if state.status is not TaskStatus.IN_PROGRESS:
        attempt.emit(EventType.TASK_STARTED, turn=state.turn)
    # Even when it is over already: no task is completed that was never in progress.
    await attempt.flush()
    if state.turn not in state.finished:
        if not attempt.external:
            _supervise(attempt)
        await _until_over(attempt)
    attempt.check_failed()
    ended = await _exit(attempt)
    attempt.emit(
        EventType.AGENT_FINISHED,
        source=EventSource.WORKSPACE,
        turn=state.turn,
        exit_code=ended.exit_code,
        error=ended.error.model_dump(mode="json") if ended.error else None,
    )
    state.result = ended.result
    state.ran += workflow.now() - _began(attempt)
    _check(attempt, ended)
    return StepOutcome.DONE


def _supervise(attempt: Attempt) -> None:
    """Have the node look after the process, on the queue for long work; it outlives restarts of the node worker."""
    supervision = workflow.start_activity_method(
        NodeActivities.supervise_agent,
        agent_order(attempt),
        task_queue=supervise_queue(attempt.node),
        schedule_to_close_timeout=attempt.budgets.running_absolute + attempt.budgets.cleanup,
        heartbeat_timeout=SUPERVISE_HEARTBEAT,
        retry_policy=SUPERVISE_RETRY,
        summary=f"look after turn {attempt.state.turn}",
    )
    attempt.supervised_by(supervision)


def _over(attempt: Attempt) -> bool:
    looked = attempt.supervision is not None and attempt.supervision.done()
    return attempt.state.turn in attempt.state.finished or looked


def _began(attempt: Attempt) -> datetime:
    return attempt.state.visit_since or workflow.now()


async def _until_over(attempt: Attempt) -> None:
    began = _began(attempt)
    while not _over(attempt):
        cap, at = _next_cap(attempt, began)
        if await attempt.wait(lambda: _over(attempt), within=max(at - workflow.now(), AT_ONCE), holds=False):
            continue
        if cap == IDLE and (await _stirs(attempt) or _over(attempt)):
            continue
        seconds = (workflow.now() - began).total_seconds()
        if cap != SOFT:
            message = f"The command was still running after {seconds:g} s, its {cap} cap."
            if cap == IDLE and attempt.budgets.running_idle:
                idle = attempt.budgets.running_idle.total_seconds()
                message = f"The command had no output and no progress for {idle:g} s, its idle cap."
            raise StepFailed(attempt.error(f"cap_{cap}", Category.TIMEOUT, message, context={"cap": cap}))
        attempt.state.warned = True
        attempt.emit(EventType.TASK_CAP_WARNING, cap=cap, running_seconds=seconds)
        await attempt.flush()


def _next_cap(attempt: Attempt, began: datetime) -> tuple[str, datetime]:
    budgets, state = attempt.budgets, attempt.state
    caps = [(HARD, began + budgets.running), (ABSOLUTE, began + budgets.running_absolute - state.ran)]
    if not state.warned:
        caps.append((SOFT, began + budgets.running_soft))
    if budgets.running_idle:
        caps.append((IDLE, max(began, state.active_at or began) + budgets.running_idle))
    return min(caps, key=lambda cap: cap[1])


async def _stirs(attempt: Attempt) -> bool:
    """Read when there was activity last, and count the idle cap from there; False when that is too long ago.

    The heartbeats of the program beside an agent say nothing of the agent, which may hang. They say that silence is
    silence: of a workspace that was not heard either, nobody knows, and the count begins anew. An `external` workspace
    has no such program: whatever its controller says is activity, and nothing at all is none.
    """
    state, idle = attempt.state, attempt.budgets.running_idle
    seen = await attempt.mirror(MirrorActivities.read_activity, ActivityQuery(workspace_id=attempt.workspace))
    present = workflow.now()
    unheard = seen.unheard_for is None or seen.unheard_for > attempt.policy.supervision.lease
    if unheard and not attempt.external:
        state.active_at = present
    elif seen.silent_for is not None:
        state.active_at = present - seen.silent_for
    counted = max(_began(attempt), state.active_at or _began(attempt))
    return idle is None or present < counted + idle


async def _exit(attempt: Attempt) -> AgentExit:
    """Return how the turn ended: what the workspace said wins over what the node saw."""
    if (told := _told(attempt)) is not None:
        return told
    if attempt.supervision is None:
        raise StepFailed(attempt.error("no_exit", Category.INTERNAL, "The turn ended and nobody saw how."))
    try:
        seen: AgentExit = await attempt.supervision
    except ActivityError as failure:
        if (told := await _late(attempt)) is not None:
            return told
        raise attempt.failed(failure) from failure
    return (seen.lost and await _late(attempt)) or seen


async def _late(attempt: Attempt) -> AgentExit | None:
    """Look into the inbox before a process counts as lost: it may have told its end while the signal was on its way."""
    await attempt.flush()
    attempt.check_failed()
    return _told(attempt)


def _told(attempt: Attempt) -> AgentExit | None:
    told = attempt.state.finished.get(attempt.state.turn)
    if told is None:
        return None
    return AgentExit(turn=told.turn, exit_code=told.exit_code, result=told.result, error=told.error)


def _check(attempt: Attempt, ended: AgentExit) -> None:
    """Raise StepFailed unless the turn ended well."""
    if ended.lost:
        message = "The process is gone and left no exit code."
        raise StepFailed(attempt.error("runtime_lost", Category.RUNTIME_LOST, message, retryable=True))
    if ended.error is not None:
        raise attempt.told(ended.error, exit_code=ended.exit_code)
    if ended.exit_code:
        message = f"The command exited with {ended.exit_code}."
        raise StepFailed(attempt.error("nonzero_exit", Category.AGENT, message, context={"exit_code": ended.exit_code}))
