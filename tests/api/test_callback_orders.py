"""Callbacks in every order, against a model of the contract's table; and twenty at once of each."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from random import Random
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from store.models import Callback
from tests.api.harness import Api, Attempt

FIRST: Final[dict[str, dict[str, Any]]] = {
    "ready": {"status": "running"},
    "failed": {"error": {"code": "no_disk", "message": "full"}},
    "finished": {"exit_code": 0},
}
OTHER: Final[dict[str, dict[str, Any]]] = {
    "ready": {"status": "recovery"},
    "failed": {"error": {"code": "no_net", "message": "cut"}},
    "finished": {"exit_code": 1},
}
TOLD: Final = tuple((kind, bodies) for kind in FIRST for bodies in ("first", "other"))
NEXT, END = ("next", ""), ("end", "")
MOVES: Final = (*TOLD, NEXT, END)
Move = tuple[str, str]
APPLIED, DUPLICATE = (200, "applied"), (200, "duplicate")


@dataclass
class Model:
    """The table, in the fewest words: what each callback is answered, and what it leaves."""

    inbox: dict[str, str] = field(default_factory=dict)
    over: str | None = None
    noted: set[tuple[str, str]] = field(default_factory=set)

    def tell(self, kind: str, content: str) -> tuple[int, str]:
        """Return the answer."""
        if self.over == "stale_attempt":
            self.noted.add(("callback.stale", kind))
        if self.over is not None:
            return 410, self.over
        if kind != "failed" and "failed" in self.inbox:
            return 409, "already_failed"
        if kind not in self.inbox:
            self.inbox[kind] = content
            return APPLIED
        if self.inbox[kind] != content:
            return 409, "conflicting_callback"
        self.noted.add(("callback.duplicate", kind))
        return DUPLICATE


async def tell(attempt: Attempt, kind: str, content: str) -> tuple[int, str]:
    """Post a callback; returns status, and result or code."""
    response = await attempt.tell(kind, (FIRST if content == "first" else OTHER)[kind])
    body = response.json()
    return response.status_code, body.get("result") or body["code"]


async def play(api: Api, moves: tuple[Move, ...]) -> None:
    """Make these moves, and compare each answer, the inbox and the log with the model's."""
    attempt, model = await api.live(), Model()
    for kind, content in moves:
        if kind == "next":
            if model.over is None:
                await attempt.next()
                model.over = "stale_attempt"
        elif kind == "end":
            if model.over is None:
                await attempt.end()
                model.over = "attempt_ended"
        else:
            assert await tell(attempt, kind, content) == model.tell(kind, content), moves
    assert await inbox(api, attempt) == set(model.inbox), moves
    events = await api.events(attempt.task, "callback.duplicate", "callback.stale")
    noted = [(event["type"], event["data"]["kind"]) for event in events]
    assert sorted(noted) == sorted(model.noted), moves


async def inbox(api: Api, attempt: Attempt) -> set[str]:
    """Return which kinds the inbox holds, the claim aside."""
    async with api.database.read() as connection:
        rows = select(Callback.kind).where(Callback.workspace_id == attempt.workspace, Callback.kind != "claimed")
        return set((await connection.execute(rows)).scalars())


# All of them cost a minute, so that the everyday tests play a share, the same each time.
EVERY: Final = tuple(product(MOVES, repeat=3))
SHARE: Final = Random("orders").sample(EVERY, 64)  # noqa: S311 - a seed, not a secret
BY_FIRST: Final = [
    pytest.param([moves for moves in EVERY if moves[0] == first], id="-".join(first), marks=pytest.mark.campaign)
    for first in MOVES
]


@pytest.mark.parametrize("orders", [pytest.param(SHARE, id="share"), *BY_FIRST])
async def test_every_order_of_three(engine_api: Api, orders: Sequence[tuple[Move, ...]]) -> None:
    """All 512 sequences of three moves answer and leave what the table says."""
    for moves in orders:
        await play(engine_api, moves)


async def test_longer_orders(engine_api: Api) -> None:
    """Sequences of up to ten moves, drawn at random."""
    loop = asyncio.get_running_loop()
    drawn: list[tuple[Move, ...]] = []

    @settings(max_examples=80, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(st.sampled_from(MOVES), min_size=4, max_size=10))
    def draw(moves: list[Move]) -> None:
        played = asyncio.run_coroutine_threadsafe(play(engine_api, tuple(moves)), loop)
        played.result(30)
        drawn.append(tuple(moves))

    await asyncio.to_thread(draw)
    assert len(drawn) >= 80


@pytest.mark.parametrize("kind", FIRST)
async def test_twenty_at_once_have_one_effect(engine_api: Api, kind: str) -> None:
    """One `applied`, nineteen `duplicate`, one row, at most one event."""
    attempt = await engine_api.live()
    answers = await asyncio.gather(*(tell(attempt, kind, "first") for _ in range(20)))
    assert sorted(answers) == [APPLIED] + [DUPLICATE] * 19
    assert await inbox(engine_api, attempt) == {kind}
    assert len(await engine_api.events(attempt.task, "callback.duplicate")) == 1


@pytest.mark.parametrize("kind", FIRST)
async def test_twenty_at_once_of_two_contents(engine_api: Api, kind: str) -> None:
    """The first wins, whichever that is: its nine repeats are duplicates, the ten others conflicts."""
    attempt = await engine_api.live()
    answers = await asyncio.gather(*(tell(attempt, kind, ("first", "other")[n % 2]) for n in range(20)))
    assert sorted(answers) == [APPLIED] + [DUPLICATE] * 9 + [(409, "conflicting_callback")] * 10


@pytest.mark.parametrize(("over", "code"), [("next", "stale_attempt"), ("end", "attempt_ended")])
@pytest.mark.parametrize("kind", FIRST)
async def test_twenty_at_once_that_come_late(engine_api: Api, kind: str, over: str, code: str) -> None:
    """410 for all of them; a stale one is noted once."""
    attempt = await engine_api.live()
    await (attempt.next() if over == "next" else attempt.end())
    answers = await asyncio.gather(*(tell(attempt, kind, "first") for _ in range(20)))
    assert set(answers) == {(410, code)}
    assert len(await engine_api.events(attempt.task, "callback.stale")) == (1 if over == "next" else 0)
    assert await inbox(engine_api, attempt) == set()


async def test_twenty_at_once_of_all_kinds(engine_api: Api) -> None:
    """What is not refused is kept once, and nothing but `failed` is taken after `failed`."""
    attempt = await engine_api.live()
    kinds = [tuple(FIRST)[n % 3] for n in range(21)]
    answers = await asyncio.gather(*(tell(attempt, kind, "first") for kind in kinds))
    taken = {kind for kind, answer in zip(kinds, answers, strict=True) if answer[0] == 200}
    assert "failed" in taken
    assert await inbox(engine_api, attempt) == taken
    for kind in taken:
        mine = [answer for told, answer in zip(kinds, answers, strict=True) if told == kind]
        assert mine.count(APPLIED) == 1
        assert set(mine) <= {APPLIED, DUPLICATE, (409, "already_failed")}


async def test_temporal_away_keeps_each_kind_until_it_is_back(engine_api: Api, api: Api) -> None:
    """202 for each and for each repeat; `applied` once the engine answers, and `duplicate` from then on."""
    attempt = await engine_api.live()
    for kind in ("ready", "finished", "failed"):
        attempt.api = api
        assert await tell(attempt, kind, "first") == (202, "accepted")
        assert await tell(attempt, kind, "first") == (202, "accepted")
        assert await tell(attempt, kind, "other") == (409, "conflicting_callback")
        attempt.api = engine_api
        assert await tell(attempt, kind, "first") == APPLIED
        assert await tell(attempt, kind, "first") == DUPLICATE
