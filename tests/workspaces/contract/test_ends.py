"""The ends of a workspace, by every provider: in each phase, twice, kept, and found when nobody knows of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from domain.errors import Failure
from domain.messages import AgentOrder
from tests.workspaces.conftest import Bench
from tests.workspaces.recording import until
from workspaces import processes

BUSY = ["sh", "-c", 'trap "" TERM; touch ../home/busy; while :; do sleep 1; done']


async def nothing_is_left(bench: Bench) -> None:
    """No process, no files, no entry of the list; the id cannot come back."""
    assert processes.of_workspace(bench.order.workspace_id) == []
    assert not bench.base.exists()
    assert await bench.provider.list() == []
    with pytest.raises(Failure) as caught:
        await bench.provider.create(bench.order, bench.grant())
    assert caught.value.error.code == "workspace_gone"
    assert not bench.base.exists()


async def creating(bench: Bench) -> None:
    """Its creation is still under way."""
    started = asyncio.ensure_future(bench.provider.create(bench.order, bench.grant()))
    await asyncio.wait({started}, timeout=0.1)
    await bench.provider.destroy(bench.order.workspace_id)
    with contextlib.suppress(Failure):
        await started


async def preparing(bench: Bench) -> None:
    """Its setup runs and hears no signal."""
    bench.new(command=["true"], setup=[BUSY])
    await bench.provider.create(bench.order, bench.grant())
    await until((bench.files / "home/busy").exists)


async def ready(bench: Bench) -> None:
    """It waits for its command."""
    await bench.prepare(command=["true"])


async def transferring(bench: Bench) -> None:
    """An attachment is on its way, and destroyed beside it."""
    await bench.prepare(command=["true"])

    async def pieces() -> AsyncIterator[bytes]:
        yield b"half"
        await bench.provider.destroy(bench.order.workspace_id)
        yield b"late"

    with pytest.raises((Failure, OSError)):
        await bench.provider.transfer_attachment(bench.order.workspace_id, "a", "a.txt", pieces())


async def running(bench: Bench) -> None:
    """Its command runs and hears no signal."""
    await bench.prepare(command=BUSY)
    await bench.start()
    await until((bench.files / "home/busy").exists)


async def ended(bench: Bench) -> None:
    """Its command has ended."""
    await bench.run("exit 3")


PHASES: list[Callable[[Bench], Awaitable[None]]] = [creating, preparing, ready, transferring, running, ended]


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__)
async def test_a_cancel_in_each_phase_leaves_nothing(bench: Bench, phase: Callable[[Bench], Awaitable[None]]) -> None:
    """Destroyed whatever it does, and once more: nothing is left, and a late creation makes nothing."""
    await phase(bench)
    for _ in range(2):
        await bench.provider.destroy(bench.order.workspace_id)
    await nothing_is_left(bench)


async def test_what_is_not_here_can_be_destroyed(bench: Bench) -> None:
    """It is no error, and its creation comes too late."""
    await bench.provider.destroy(bench.order.workspace_id)
    await nothing_is_left(bench)


async def test_a_workspace_of_which_nobody_knows_is_listed(bench: Bench) -> None:
    """Given two workspaces that another node process made, both are listed, and gone when they are destroyed."""
    for _ in range(2):
        await bench.prepare(command=["true"])
        bench.api.requests.clear()
    assert await bench.provider.list() == sorted(bench.ids[-2:])
    for workspace_id in bench.ids[-2:]:
        await bench.provider.destroy(workspace_id)
    assert await bench.provider.list() == []


async def test_a_kept_workspace_goes_on_with_the_next_attempt(bench: Bench) -> None:
    """Stopped, its files stay and its processes do not; the old attempt is refused, the next one finds the files."""
    bench.new(command=["sh", "-c", "echo $TASKRUNNER_ATTEMPT >> attempts; touch ../home/busy; test -e go || sleep 60"])
    await bench.prepare()
    await bench.start()
    await until((bench.files / "home/busy").exists)
    done = await bench.provider.destroy(bench.order.workspace_id, keep=True)
    assert done.details["kept"] is True
    assert processes.of_workspace(bench.order.workspace_id) == []
    assert await bench.provider.list() == [bench.order.workspace_id]
    with pytest.raises(Failure):
        await bench.start()
    (bench.files / "work/go").touch()
    bench.order = bench.order.model_copy(update={"attempt": 2})
    await bench.start()
    assert (await bench.provider.wait_agent(AgentOrder(order=bench.order))).exit_code == 0
    assert (bench.files / "work/attempts").read_text() == "1\n2\n"
    await bench.api.one("finished")


async def test_an_attachment_is_where_the_command_looks(bench: Bench) -> None:
    """Its content, by its own name, readable by the command; a second transfer replaces it."""
    await bench.prepare(command=["sh", "-c", 'cat "$TASKRUNNER_ATTACHMENTS_DIR/data.csv"'])

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"a,", b"b\n"):
            yield piece

    for _ in range(2):
        done = await bench.provider.transfer_attachment(bench.order.workspace_id, "att-1", "data.csv", pieces())
    assert done.details == {"name": "data.csv", "bytes": 4}
    await bench.start()
    assert (await bench.exit()).exit_code == 0
    await bench.api.one("finished")
    assert bench.api.log == b"a,b\n"
