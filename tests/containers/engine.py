"""A container engine for tests: `python -m tests.containers.engine COMMAND…` runs the command beside one.

The engine that answers is taken; where none does, root on Debian gets one that is installed from Debian and started by
hand, with a socket and a data root of its own, and stopped afterwards. The command is told by its environment.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import docker
import docker.errors
import requests

ENGINE: Final = "TASKRUNNER_TEST_ENGINE"  # its address
KNOWN: Final = "unix:///var/run/docker.sock"
PACKAGES: Final = ("docker.io", "iptables", "busybox-static", "debootstrap", "e2fsprogs", "mount")
PROGRAMS: Final = ("dockerd", "iptables", "busybox", "debootstrap", "mkfs.ext4", "mount")
SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
STARTS_WITHIN: Final = 120.0
STOPS_WITHIN: Final = 60.0


def answers(address: str) -> bool:
    """Whether an engine answers at this address."""
    try:
        with contextlib.closing(docker.DockerClient(base_url=address, timeout=5)) as client:
            return bool(client.ping())
    except (docker.errors.DockerException, requests.RequestException):
        return False


def install() -> None:
    """Install the engine from Debian, and what makes small images, without starting anything."""
    if all(shutil.which(name, path=SYSTEM_PATH) for name in PROGRAMS):
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise SystemExit("no container engine answers, and only root on Debian can be given one")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    apt = ["apt-get", "--quiet", "--quiet"]
    subprocess.run([*apt, "update"], env=environment, check=True)
    subprocess.run([*apt, "install", "--yes", "--no-install-recommends", *PACKAGES], env=environment, check=True)


@contextlib.contextmanager
def started() -> Iterator[str]:
    """Start an engine below a temporary folder; give its address."""
    install()
    folder = Path(tempfile.mkdtemp(prefix="taskrunner-engine-", dir="/var/tmp"))  # overlays are no friends of tmpfs
    address = f"unix://{folder}/engine.sock"
    options = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
    argv = ["dockerd", "--host", address, *(f"--{name}={folder / value}" for name, value in options.items())]
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, "PATH": SYSTEM_PATH})
    try:
        deadline = time.monotonic() + STARTS_WITHIN
        while not answers(address):
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the engine does not start:\n{(folder / 'log').read_text()[-3000:]}")
            time.sleep(0.2)
        yield address
    finally:
        daemon.terminate()
        daemon.wait(STOPS_WITHIN)
        for mounted in (line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()):
            if Path(mounted).is_relative_to(folder):  # it leaves the network namespace that it ran in
                subprocess.run(["umount", mounted], check=True)
        shutil.rmtree(folder)


def main(command: list[str]) -> int:
    """Run a command beside an engine; return its exit code."""
    with contextlib.ExitStack() as stack:
        address = next(
            (each for each in (os.environ.get("DOCKER_HOST"), KNOWN) if each and answers(each)), None
        ) or stack.enter_context(started())
        told = {ENGINE: address, "DOCKER_HOST": address, "TESTCONTAINERS_RYUK_DISABLED": "true"}
        return subprocess.run(command, env={**os.environ, **told}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
