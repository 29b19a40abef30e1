"""Short work on a node shows that it lives, and a cancel does not leave it half done."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from temporalio.activity import ActivityCancellationDetails
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from activities.pulse import PulseInterceptor

TIMEOUT = timedelta(seconds=0.3)


class Effect(ActivityInboundInterceptor):
    """An activity that takes a while."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begun = asyncio.Event()
        self.whole = False

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002, ARG002 - the SDK's own
        self.begun.set()
        await asyncio.sleep(self.seconds)
        self.whole = True
        return "done"


def environment(kind: str = "create_workspace", *, timeout: timedelta | None = TIMEOUT) -> ActivityEnvironment:
    """Give an environment for an activity of this type."""
    env = ActivityEnvironment()
    env.info = replace(env.info, activity_type=kind, heartbeat_timeout=timeout)
    return env


async def run(env: ActivityEnvironment, effect: Effect) -> Any:
    """Run the effect as a worker does."""
    wrapped = PulseInterceptor().intercept_activity(effect)

    async def work() -> Any:
        return await wrapped.execute_activity(None)  # type: ignore[arg-type]

    return await env.run(work)


@pytest.mark.parametrize(("seconds", "beats"), [(0.0, 0), (0.25, 2)])
async def test_it_beats_thrice_in_its_timeout_and_not_at_all_when_it_is_quick(seconds: float, beats: int) -> None:
    """At least so many heartbeats, and none for what is over at once."""
    env, heard = environment(), []
    env.on_heartbeat = lambda *_: heard.append(True)
    assert await run(env, Effect(seconds)) == "done"
    assert len(heard) >= beats
    assert bool(heard) is bool(beats)


async def test_without_a_timeout_nobody_listens() -> None:
    """No heartbeat."""
    env, heard = environment(timeout=None), []
    env.on_heartbeat = lambda *_: heard.append(True)
    assert await run(env, Effect(0.25)) == "done"
    assert not heard


async def test_a_cancel_waits_for_the_end_of_the_effect() -> None:
    """The effect is whole, and its result is the answer."""
    env, effect = environment(), Effect(0.3)
    running = asyncio.create_task(run(env, effect))
    await effect.begun.wait()
    env.cancel(cancellation_details=ActivityCancellationDetails(cancel_requested=True))
    assert await running == "done"
    assert effect.whole


@pytest.mark.parametrize(
    ("kind", "details"),
    [
        ("create_workspace", ActivityCancellationDetails(worker_shutdown=True)),
        ("create_workspace", ActivityCancellationDetails(timed_out=True)),
        ("transfer_attachment", ActivityCancellationDetails(cancel_requested=True)),
    ],
)
async def test_what_nobody_waits_for_and_what_begins_anew_is_interrupted(
    kind: str, details: ActivityCancellationDetails
) -> None:
    """Cancelled, and not whole."""
    env, effect = environment(kind), Effect(30)
    running = asyncio.create_task(run(env, effect))
    await effect.begun.wait()
    env.cancel(cancellation_details=details)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not effect.whole
