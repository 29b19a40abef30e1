"""Counts what passes between workflows and the mirror, from outside: no activity knows that it is counted."""

from collections import OrderedDict
from datetime import datetime
from typing import Any, Final

from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from domain.events import EVENT_OF_OUTCOME, EventType, NewEvent
from domain.lifecycle import Step, TaskStatus
from domain.messages import Answer, Flush, Verdict
from domain.names import TaskId
from domain.reconcile import Report
from telemetry.metrics import Metrics

OUTCOME_OF_EVENT: Final = {event: outcome for outcome, event in EVENT_OF_OUTCOME.items()}
# Steps that began in this process and have not ended: those of a worker that died are forgotten, the oldest first.
MOST_OPEN: Final = 20_000


class MeteringInterceptor(Interceptor):
    """Wraps every activity of a control worker."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._begun: OrderedDict[tuple[TaskId, int, Step], datetime] = OrderedDict()

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """Wrap one activity."""
        return _Metered(next, self)

    def note(self, argument: Any, result: Any) -> None:
        """Count what an activity was asked and what it answered."""
        if isinstance(result, Report):
            self._metrics.sweep_seconds.observe(result.seconds)
            for action, count in () if result.dry_run else result.counts.items():
                self._metrics.sweep_actions.labels(action).inc(count)
            return
        flush = argument if isinstance(argument, Flush) else getattr(argument, "flush", None)
        answer = result if isinstance(result, Answer) else getattr(result, "answer", None)
        if not isinstance(flush, Flush) or not isinstance(answer, Answer):
            return
        self._metrics.flushes.labels(answer.verdict).inc()
        # A redo of what was written is no second end.
        if answer.verdict is Verdict.APPLIED and not answer.withheld:
            for event in flush.events:
                self._happened(flush.task_id, event)

    def _happened(self, task: TaskId, event: NewEvent) -> None:
        metrics = self._metrics
        if event.type is EventType.STEP_STARTED and event.step:
            self._begun[task, event.attempt, event.step] = event.ts
            while len(self._begun) > MOST_OPEN:
                self._begun.popitem(last=False)
        elif event.type in (EventType.STEP_FINISHED, EventType.STEP_FAILED) and event.step:
            begun = self._begun.pop((task, event.attempt, event.step), None)
            if begun is not None:
                metrics.step_seconds.labels(event.step).observe((event.ts - begun).total_seconds())
        outcome = TaskStatus.FAILED if event.type is EventType.ATTEMPT_FAILED else OUTCOME_OF_EVENT.get(event.type)
        if outcome is None:
            return
        metrics.attempt_seconds.labels(outcome).observe(event.data.get("duration_seconds", 0.0))
        if outcome is TaskStatus.FAILED:
            metrics.attempts_failed.labels((event.data.get("error") or {}).get("category", "internal")).inc()
        if event.type is not EventType.ATTEMPT_FAILED:
            metrics.tasks_ended.labels(outcome).inc()


class _Metered(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, metering: MeteringInterceptor) -> None:  # noqa: A002
        super().__init__(next)
        self._metering = metering

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's own name
        result = await super().execute_activity(input)
        self._metering.note(input.args[0] if input.args else None, result)
        return result
