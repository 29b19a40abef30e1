"""Child processes of the embedded stack, and the supervisor that keeps them up."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Protocol

LOG_LIMIT = 10 * 1024 * 1024  # bytes; a longer log is set aside as `.1` at the next start
PROBE_PAUSE = 0.02  # seconds between two readiness probes


class ChildFailedError(RuntimeError):
    """A child could not be started, or ended before it was ready."""


def die_with_parent(sign: signal.Signals) -> tuple[str, ...]:
    """Return the argv prefix with which the kernel sends `sign` to a child once its parent is gone.

    Empty where that is not possible (no Linux, no util-linux). The kernel looks at the parent *thread*, so children are
    started from the main thread's event loop; it forgets the signal when the uid changes, so this prefix comes last.
    Who asks for the signal after the parent has gone never gets it: the child looks once more, and does not begin.
    """
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    if not setpriv:
        return ()
    look = ("sh", "-c", 'test "$PPID" = "$0" && exec "$@"', str(os.getpid()))
    return (setpriv, "--pdeathsig", sign.name.removeprefix("SIG"), *look)


def appending(log: Path) -> BinaryIO:
    """Open a log to append to; a new one is its owner's alone, for it may quote what others must not read."""
    return os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log, or a remark that it is empty."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-lines:]) or "(its log is empty)"


def first_line(error: BaseException) -> str:
    """Return the sentence of an error without the statements and traces that libraries add below it."""
    return str(error).partition("\n")[0] or type(error).__name__


async def until(true: Callable[[], bool], *, patience: timedelta) -> bool:
    """Ask until the answer is yes or the patience is over, and return the last answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience.total_seconds()):
            while not true():  # noqa: ASYNC110 - what is waited for is outside this process
                await asyncio.sleep(PROBE_PAUSE)
    return true()


class ChildProcess:
    """One process in a session of its own, its output appended to a log.

    It dies with this process where the kernel can do that (`on_parent_death`). `ready` is asked until it says yes.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ready: Callable[[], Awaitable[bool]] | None = None,
        patience: timedelta = timedelta(seconds=60),
        grace: timedelta = timedelta(seconds=10),
        stop_signal: signal.Signals = signal.SIGTERM,
        on_parent_death: signal.Signals = signal.SIGKILL,
        prefix: Sequence[str] = (),
        umask: int = -1,
    ) -> None:
        self.name = name
        self.log = log
        self._argv = (*prefix, *die_with_parent(on_parent_death), *argv)
        self._env = None if env is None else dict(env)
        self._umask = umask
        self._cwd = cwd
        self._ready = ready
        self._patience = patience
        self._grace = grace
        self._stop_signal = stop_signal
        self._process: asyncio.subprocess.Process | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """The process id, or None when nothing runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def said(self, words: str) -> bool:
        """Tell whether it wrote these words to its log in this life."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return words.encode() in log.read()

    async def start(self) -> None:
        """Start and return once it is ready. Raises ChildFailedError when it ends or is not ready in time."""
        await self.stop()  # what an earlier life left in its group
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.replace(self.log.with_name(self.log.name + ".1"))
        with appending(self.log) as output:
            self._log_start = output.tell()
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=self._env,
                    cwd=self._cwd,
                    umask=self._umask,
                    start_new_session=True,  # Ctrl-C in a terminal reaches the supervisor only
                )
            except OSError as error:
                raise ChildFailedError(f"{self.name} could not be started: {error}") from error
        if self._ready is None:
            return
        try:
            async with asyncio.timeout(self._patience.total_seconds()):
                await self._until_ready(self._ready)
        except TimeoutError as error:
            await self.stop()
            seconds = int(self._patience.total_seconds())
            raise ChildFailedError(
                f"{self.name} was not ready within {seconds} s ({self.log}):\n{tail(self.log)}"
            ) from error
        except BaseException:
            await self.stop()
            raise

    async def _until_ready(self, ready: Callable[[], Awaitable[bool]]) -> None:
        while True:
            if self.pid is None:
                code = await self.exited()
                raise ChildFailedError(f"{self.name} ended with {code} at its start ({self.log}):\n{tail(self.log)}")
            if await ready():
                return
            await asyncio.sleep(PROBE_PAUSE)

    async def exited(self) -> int:
        """Wait for its end and return the exit code, negative for a signal."""
        if self._process is None:
            raise ChildFailedError(f"{self.name} was never started")
        return await self._process.wait()

    async def stop(self) -> None:
        """Ask it to end, kill its whole group after the grace period, and return when it is gone."""
        if self._process is None:
            return
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(self._stop_signal)
            try:
                await asyncio.wait_for(self._process.wait(), self._grace.total_seconds())
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):  # what it left in its group goes too
            os.killpg(self._process.pid, signal.SIGKILL)


class Service(Protocol):
    """What a supervisor looks after: `start` returns when it is ready and can be called again after a death."""

    name: str

    async def start(self) -> None:
        """Start and wait until ready."""

    async def exited(self) -> int:
        """Wait for the end of the running process."""

    async def stop(self) -> None:
        """Stop and wait until it is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """The pause before a restart: doubles from `first` to `most`; a life longer than `calm` starts it over."""

    first: timedelta = timedelta(milliseconds=500)
    most: timedelta = timedelta(seconds=30)
    calm: timedelta = timedelta(seconds=60)

    def after(self, earlier: timedelta | None, *, lived: timedelta) -> timedelta:
        """Return the next pause, given the earlier one and how long the service lived."""
        if earlier is None or lived > self.calm:
            return self.first
        return min(earlier * 2, self.most)


class Supervisor:
    """Starts services in order, restarts what dies, stops all in reverse order."""

    def __init__(self, *, say: Callable[[str], None], backoff: Backoff | None = None) -> None:
        self._say = say
        self._backoff = backoff or Backoff()
        self._groups: list[dict[Service, asyncio.Task[None]]] = []

    async def start(self, *services: Service) -> None:
        """Start more services, several at once; the first start of each must succeed, later deaths are mended."""
        starts = await asyncio.gather(*(service.start() for service in services), return_exceptions=True)
        failures = [failure for failure in starts if failure]
        good = [service for service, failure in zip(services, starts, strict=True) if not failure]
        self._groups.append({service: asyncio.create_task(self._keep(service)) for service in good})
        if failures:
            raise failures[0]

    async def _keep(self, service: Service) -> None:
        loop = asyncio.get_running_loop()
        pause: timedelta | None = None
        while True:
            born = loop.time()
            code = await service.exited()
            pause = self._backoff.after(pause, lived=timedelta(seconds=loop.time() - born))
            while True:
                self._say(f"{service.name} ended with {code}; it is started again in {pause.total_seconds():g} s")
                await asyncio.sleep(pause.total_seconds())
                try:
                    await service.start()
                except ChildFailedError as error:
                    self._say(str(error))
                    pause = self._backoff.after(pause, lived=timedelta())
                else:
                    self._say(f"{service.name} runs again")
                    break

    async def stop(self) -> None:
        """Stop everything in reverse order: what was started at once stops at once, and is awaited before the next."""
        while self._groups:
            group = self._groups.pop()
            for keeper in group.values():
                keeper.cancel()
            await asyncio.gather(*group.values(), return_exceptions=True)
            await asyncio.gather(*(service.stop() for service in group))
