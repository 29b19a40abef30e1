"""Every failpoint strikes, in a real process: it dies before, it dies after, the reply is lost; everything ends right.

One stack serves all that run in one process: what of it dies is started again, as a supervisor does it. In the end the
nine invariants hold of it.
"""

from collections.abc import AsyncIterator

import pytest

from tests.faults.caller import Caller
from tests.faults.checker import check
from tests.faults.drill import arm
from tests.faults.points import Action, points
from tests.faults.quiet import settled
from tests.faults.scenes import play, scene_of
from tests.faults.stack import FaultStack, running

pytestmark = pytest.mark.campaign

STRIKES = [(point, action) for point in points() for action in Action]
PLAYS = 4


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FaultStack]:
    """Give a running stack with few slots, so that some wait."""
    async with running(tmp_path_factory.mktemp("failpoints"), slots=3) as stack:
        yield stack


@pytest.fixture(scope="module")
async def caller(stack: FaultStack) -> AsyncIterator[Caller]:
    """Give a caller who remembers all that it was told; when all of them have struck, nothing is violated."""
    caller = Caller(stack.http)
    yield caller
    snapshot = await settled(stack, caller.witness)
    assert {name: found for name, found in check(snapshot).items() if found} == {}


@pytest.mark.parametrize(("point", "action"), STRIKES, ids=str)
async def test_a_failpoint_strikes_and_nothing_is_lost(
    stack: FaultStack, caller: Caller, point: str, action: Action
) -> None:
    """The point struck, and the scene that passed it ended as it should."""
    before = stack.armoury.hits()[point, action]
    arm(stack, point, action)
    try:
        for _ in range(PLAYS):
            await play(scene_of(point), stack, caller)
            if stack.armoury.hits()[point, action] > before:
                break
        assert stack.armoury.hits()[point, action] == before + 1, f"nobody reached {point}"
    finally:
        stack.armoury.disarm()
