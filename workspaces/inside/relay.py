"""Mode `relay`: carries bytes between an address that it listens on and the one address that lies behind it.

Two of them in a row are all that leads out of a container: inside, it listens where the API would be and passes on to a
socket in a shared folder; on the node, another one passes from that socket to the API, and to nothing else. As the
first process of a container it also collects what others leave behind, and takes them along when it is told to end.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
from pathlib import Path

PIECE = 65_536  # bytes that wait for a slow reader, in each direction
MOST = 64  # connections at once; the next one waits in the kernel's queue
BACKLOG = 128
CONNECT_TIMEOUT = 5.0  # seconds; the caller has ten for the whole exchange
LOOK = 0.02  # seconds between looks for the end of the others
FIRST = 1  # the pid of a container's first process


def listening(address: str) -> socket.socket:
    """Return the listening socket of `unix:PATH` or `tcp:HOST:PORT`; a socket that a killed one left is replaced."""
    kind, _, rest = address.partition(":")
    if kind == "unix":
        path = Path(rest)
        os.chdir(path.parent)  # so that no path is too long for a socket's address
        path.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX)
        server.bind(path.name)
        path.chmod(0o666)  # whoever reaches the folder may connect
    else:
        host, _, port = rest.rpartition(":")
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, int(port)))
    server.listen(BACKLOG)
    server.setblocking(False)
    return server


def connected(address: str) -> socket.socket:
    """Return a connection to `unix:PATH` or `tcp:HOST:PORT`. Raises OSError."""
    kind, _, rest = address.partition(":")
    if kind == "unix":
        target = socket.socket(socket.AF_UNIX)
        try:
            target.settimeout(CONNECT_TIMEOUT)
            target.connect(rest)
        except OSError:
            target.close()
            raise
        return target
    host, _, port = rest.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT)


class Way:
    """One direction of a connection: what was read from one end and not yet written to the other."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source = source
        self.target = target
        self.waiting = b""
        self.ended = False  # the source has no more
        self.closed = False  # the target was told so

    def move(self) -> None:
        """Read and write as much as both ends take. Raises OSError when one of them is gone."""
        if not self.waiting and not self.ended:
            try:
                self.waiting = self.source.recv(PIECE)
                self.ended = not self.waiting
            except BlockingIOError:
                pass
        if self.waiting:
            with contextlib.suppress(BlockingIOError):
                self.waiting = self.waiting[self.target.send(self.waiting) :]
        if self.ended and not self.waiting and not self.closed:
            self.target.shutdown(socket.SHUT_WR)
            self.closed = True


class Pair:
    """A caller and its connection to the target."""

    def __init__(self, caller: socket.socket, target: socket.socket) -> None:
        self.ends = (caller, target)
        self.ways = (Way(caller, target), Way(target, caller))
        for end in self.ends:
            end.setblocking(False)

    def move(self) -> bool:
        """Carry what is there; False when the pair is done."""
        try:
            for way in self.ways:
                way.move()
        except OSError:
            return False
        return not all(way.closed for way in self.ways)

    def interests(self) -> list[tuple[socket.socket, int]]:
        """Return what each end waits for; nothing is read that nobody takes."""
        found = []
        for end in self.ends:
            events = 0
            for way in self.ways:
                if way.source is end and not way.waiting and not way.ended:
                    events |= selectors.EVENT_READ
                if way.target is end and way.waiting:
                    events |= selectors.EVENT_WRITE
            found.append((end, events))
        return found

    def close(self) -> None:
        """Close both ends."""
        for end in self.ends:
            end.close()


class Relay:
    """One thread for all connections: it needs no process or thread that a crowded container would not give."""

    def __init__(self, server: socket.socket, target: str) -> None:
        self._server = server
        self._target = target
        self._selector = selectors.DefaultSelector()
        self._selector.register(server, selectors.EVENT_READ)
        self._pairs: set[Pair] = set()

    def step(self, timeout: float | None) -> None:
        """Wait for something to do, at most this long, and do it."""
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._server:
                self._accept()
            elif isinstance(key.data, Pair):
                if key.data in self._pairs:
                    self._settle(key.data)
            else:
                with contextlib.suppress(BlockingIOError):
                    key.fileobj.recv(PIECE)  # type: ignore[union-attr]  # a socket, always

    def hear(self, wake: socket.socket) -> None:
        """Let whatever comes from here end a wait."""
        self._selector.register(wake, selectors.EVENT_READ)

    def _accept(self) -> None:
        try:
            caller, _ = self._server.accept()
        except OSError:
            return
        try:
            pair = Pair(caller, connected(self._target))
        except OSError:
            caller.close()  # the caller tries again
            return
        self._pairs.add(pair)
        if len(self._pairs) >= MOST:
            self._selector.unregister(self._server)
        self._settle(pair)

    def _settle(self, pair: Pair) -> None:
        alive = pair.move()
        known = self._selector.get_map()
        for end, events in pair.interests():
            if end in known and not (alive and events):
                self._selector.unregister(end)
            elif alive and events and end in known:
                self._selector.modify(end, events, pair)
            elif alive and events:
                self._selector.register(end, events, pair)
        if not alive:
            pair.close()
            self._pairs.discard(pair)
            if self._server not in self._selector.get_map():
                self._selector.register(self._server, selectors.EVENT_READ)


def others() -> bool:
    """Whether anybody else lives in this container; whoever only waits to be collected does not."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state = entry.read_text("utf-8", "replace").rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue
        if entry.parent.name != str(FIRST) and state not in "ZX":
            return True
    return False


def collect() -> None:
    """Collect everybody who has ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return


class End:
    """The end that SIGTERM asks for: the first process of a container ends the others first."""

    def __init__(self, relay: Relay) -> None:
        self._first = os.getpid() == FIRST
        self._asked = False
        # A signal wakes the relay up at once.
        wake, self._wake = socket.socketpair()
        for each in (wake, self._wake):
            each.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._ask)
        if self._first:
            signal.signal(signal.SIGCHLD, lambda *_: None)
        relay.hear(wake)

    def _ask(self, *_: object) -> None:
        self._asked = True
        if self._first and others():
            os.kill(-1, signal.SIGTERM)

    def come(self) -> bool:
        """Collect who has ended; return whether it is time."""
        if self._first:
            collect()
        return self._asked and not (self._first and others())

    @property
    def near(self) -> bool:
        """Whether the others are being waited for."""
        return self._asked


def run(listen: str, target: str, lock: str | None = None) -> int:
    """Relay until SIGTERM; with `lock`, only if nobody else holds that file, which names this process once it hears."""
    descriptor = -1
    if lock is not None:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        os.ftruncate(descriptor, 0)
    relay = Relay(listening(listen), target)
    end = End(relay)
    if descriptor >= 0:
        os.write(descriptor, json.dumps({"pid": os.getpid()}).encode())
    while not end.come():
        relay.step(LOOK if end.near else None)
    return 0
