"""A new step is one row of the table and one handler: added here to a copy of the source, and run."""

import asyncio
import shutil
import sys
from pathlib import Path

from sqlalchemy import text

from tests.workflows.scenes import CLAIMED, FINISHED, READY
from tests.workflows.stage import Stage

ROOT = Path(__file__).parents[2]
SOURCE = ("domain", "store", "workflows", "activities", "workspaces", "worker.py", "settings.py")
WORKER = "tests/workflows/mortal.py"  # given no call to die of

HANDLER = '''
"""Look into the licences of what the workspace has fetched."""

from domain.lifecycle import StepOutcome
from workflows.attempt import Attempt


async def licence_check(attempt: Attempt) -> StepOutcome:
    """Look, flush, and go on."""
    await attempt.flush()
    attempt.trace("licence_check", {"files": 3})
    return StepOutcome.DONE
'''


def add_line(path: Path, *, after: str, line: str) -> None:
    """Add a line after the one that starts so, with the same indentation."""
    lines = path.read_text().splitlines()
    at = next(number for number, found in enumerate(lines) if found.strip().startswith(after))
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    lines.insert(at + 1, indent + line)
    path.write_text("\n".join(lines) + "\n")


def extended_copy(folder: Path) -> None:
    """Copy the source, and add the step."""
    for name in SOURCE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    (folder / WORKER).parent.mkdir(parents=True)
    shutil.copy2(ROOT / WORKER, folder / WORKER)

    add_line(folder / "domain/lifecycle.py", after="ATTACHMENT_TRANSFER = ", line='LICENCE_CHECK = "licence_check"')
    (folder / "workflows/steps/licence_check.py").write_text(HANDLER.lstrip())
    runner = folder / "workflows/task_runner.py"
    add_line(
        runner,
        after="from workflows.steps.cleanup import",
        line="from workflows.steps.licence_check import licence_check",
    )
    add_line(runner, after="Step.ATTACHMENT_TRANSFER: ", line="Step.LICENCE_CHECK: licence_check,")


async def test_a_new_step_takes_its_place(bare_stage: Stage, temporal_address: str, tmp_path: Path) -> None:
    """completed, by way of the new step, in its place: with events, a visit, and its own trace."""
    extended_copy(tmp_path)
    upgrade = f"from store.migrate import upgrade; upgrade({bare_stage.url!r})"
    upgrading = await asyncio.create_subprocess_exec(sys.executable, "-c", upgrade, cwd=tmp_path)
    assert await upgrading.wait() == 0
    arguments = (temporal_address, bare_stage.url, bare_stage.queue, "nothing", "0")
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", WORKER.removesuffix(".py").replace("/", "."), *arguments, cwd=tmp_path
    )
    try:
        task = await bare_stage.start(provider="external", told=[CLAIMED, READY, FINISHED])
        async with asyncio.timeout(30):
            await task.handle.result()
    finally:
        worker.kill()
        await worker.wait()
    query = text("SELECT type, step FROM events WHERE task_id = :id AND type LIKE 'step.%' ORDER BY seq")
    async with bare_stage.database.begin("test") as connection:
        story = [f"{row.type}({row.step})" for row in await connection.execute(query, {"id": task.task})]
    at = story.index("step.started(licence_check)")
    assert story[at - 1 : at + 3] == [
        "step.skipped(attachment_transfer)",
        "step.started(licence_check)",
        "step.finished(licence_check)",
        "step.skipped(agent_session)",
    ]
