"""How soon a run is told what is to be told to it, when it was told something just now."""

import asyncio
import threading
import time

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from activities.pace import Pace
from activities.run_dispatch import LOOK_AGAIN, RunDispatcher
from domain import failpoints
from domain.names import RunId
from domain.policy import Policy
from store.engine import Database
from workflows.gateway import Gateway

REST = LOOK_AGAIN / 2


def test_a_few_messages_may_follow_each_other_then_one_in_each_interval() -> None:
    """Three at once; the fourth an interval after the first; another run has a pace of its own."""
    pace, crowd, chain = Pace(interval=10, at_once=3), RunId("crowd"), RunId("chain")
    for _ in range(3):
        assert pace.rests(100) == {}
        pace.told(crowd, 100)
    pace.told(chain, 100)
    assert pace.rests(104) == {crowd: 6}
    assert pace.rests(110) == {}
    pace.told(crowd, 110)
    assert pace.rests(110) == {crowd: 10}


def test_who_is_told_once_in_each_interval_never_rests() -> None:
    """No rest in a hundred messages, one in each interval."""
    pace, run = Pace(interval=10, at_once=1), RunId("chain")
    for number in range(100):
        assert pace.rests(number * 10) == {}
        pace.told(run, number * 10)


async def test_a_rest_that_ends_during_a_look_is_followed_by_another_look(database_url: str) -> None:
    """The next look comes by the end of a rest: the one before left out a run that has rested by now."""
    database = Database(database_url, pool=2)
    nowhere = Gateway(await Client.connect("127.0.0.1:1", lazy=True, data_converter=pydantic_data_converter))
    pace, looks, looked_again = Pace(interval=REST, at_once=1), list[float](), asyncio.Event()
    dispatcher = RunDispatcher(database=database, gateway=nowhere, policy=Policy(), pace=pace)

    def reached(point: str) -> None:
        if point == "run_intents.take:before" and not looks:
            threading.Event().wait(REST)  # a database that answers slowly; and nobody pokes
        looks.append(time.monotonic())
        if len(looks) > 2:
            looked_again.set()

    pace.told(RunId("crowd"), time.monotonic())
    failpoints.arm(reached)
    loop = asyncio.create_task(dispatcher.run())
    try:
        await asyncio.wait_for(looked_again.wait(), 10)
    finally:
        failpoints.arm(None)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await dispatcher.close()
        await database.close()
    assert looks[2] - looks[1] < LOOK_AGAIN
