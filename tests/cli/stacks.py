"""A whole stack in a process of its own, as a person starts it, for the end-to-end tests."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

CHECKOUT = Path(__file__).parents[2]
ANY_PORTS = ("--temporal-port", "0", "--temporal-ui-port", "0")
PATIENCE = 120  # seconds; a limit for what hangs: a whole stack comes and goes in this on a busy machine


def environment(data_dir: Path, **more: str) -> dict[str, str]:
    """Return an environment that names no server and finds this checkout's modules."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("TASKRUNNER_", "TEMPORAL_"))}
    ours = {
        "PYTHONPATH": str(CHECKOUT),
        "TASKRUNNER_DATA_DIR": str(data_dir),
        "TASKRUNNER_PORT": "0",
        "TASKRUNNER_METRICS_PORT": "0",
    }
    return clean | ours | {"TASKRUNNER_NODE_ALLOW_FILE_URLS": "true", "COLUMNS": "200"} | more


class StackProcess:
    """`taskrunner up` and what it printed until it was ready."""

    def __init__(
        self,
        data_dir: Path,
        *,
        program: Sequence[str] = (sys.executable, "-P", "-m", "cli.main"),
        cwd: Path | None = None,
        **env: str,
    ) -> None:
        self.data_dir = data_dir
        self.env = environment(data_dir, **env)
        self.said: list[str] = []
        self._program = program
        self._cwd = cwd or data_dir.parent
        self._process: subprocess.Popen[str] | None = None

    @property
    def output(self) -> IO[str]:
        """What it prints."""
        assert self._process
        assert self._process.stdout
        return self._process.stdout

    def up(self) -> "StackProcess":
        """Start it and wait until it says that it is ready."""
        self._process = subprocess.Popen(
            [*self._program, "up", *ANY_PORTS],
            env=self.env,
            cwd=self._cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said = []
        self.wait_for("ready;")
        return self

    def wait_for(self, words: str) -> str:
        """Read on until a line holds these words and return it; fails when the process ends first."""
        for line in self.output:
            self.said.append(line.rstrip())
            if words in line:
                return line
        logs = "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in self.data_dir.glob("logs/*.log"))
        raise AssertionError("\n".join([f"`up` ended before it said {words!r}:", *self.said, logs]))

    def run(self, *arguments: str, code: int | None = 0) -> str:
        """Run another command against it and return what it printed."""
        done = subprocess.run(
            [*self._program, *arguments],
            env=self.env,
            cwd=self._cwd,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert code is None or done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def family(self) -> list[psutil.Process]:
        """Return `up` and everything that descends from it."""
        assert self._process
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def child(self, words: str) -> psutil.Process:
        """Return the child whose command line ends with these words."""
        for process in self.family():
            with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
                if " ".join(process.cmdline()).endswith(words):
                    return process
        raise AssertionError(f"no child {words!r}")

    def kill(self) -> None:
        """Kill the supervisor with -9 and wait until nothing of the stack runs."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to stop as a person does, and return its exit code; fails when anything is left."""
        return self._end(signal.SIGINT)

    def _adoptable(self, process: psutil.Process) -> bool:
        """Tell whether it works in a workspace: such a process outlives the stack, and the next one adopts it."""
        with suppress(psutil.NoSuchProcess):
            chain = [process, *process.parents()]
            homes = [str(self.data_dir / name) for name in ("workspaces", "containers")]
            return any(home in " ".join(each.cmdline()) for each in chain for home in homes)
        return False

    def _end(self, sign: signal.Signals) -> int:
        assert self._process
        family = []
        with suppress(psutil.NoSuchProcess):
            family = self.family()[1:]
        family = [process for process in family if not self._adoptable(process)]
        self._process.send_signal(sign)
        rest, _ = self._process.communicate(timeout=PATIENCE)
        self.said += rest.splitlines()
        _, alive = psutil.wait_procs(family, timeout=30)
        left = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
        assert not left, left
        return self._process.wait()
