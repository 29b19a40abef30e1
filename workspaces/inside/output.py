"""The log of an attempt: bounded, on the disk first, then posted piece by piece.

The file is the buffer: a poster that was cut off, or that comes with a later turn, goes on where the last one
stopped. Offsets count the attempt's bytes, whichever session wrote them.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO

from workspaces.inside.callbacks import CONFLICT, Callbacks, Unheard, now

BATCH = 64_000  # bytes
PERIOD = 0.2  # seconds between posts, so that a chatty command costs five requests a second
TAIL = 2000  # bytes of a command's output that an error quotes


class Output:
    """Appends to the log file and posts it from a thread of its own."""

    def __init__(self, path: Path, limit: int, callbacks: Callbacks) -> None:
        self._file = path.open("ab", buffering=0)
        self._source = path
        self._size = path.stat().st_size
        self._last = f"\n[truncated: this attempt's log holds no more than {limit} bytes]\n".encode()
        self._room = max(0, limit - len(self._last))
        self._mark = path.with_suffix(".posted")
        self.tail = b""
        self._posted = int(self._mark.read_text("ascii")) if self._mark.exists() else 0
        self._callbacks = callbacks
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._closing = threading.Event()
        self._until = float("inf")
        self._poster = threading.Thread(target=self._post, name="log", daemon=True)

    def start(self) -> None:
        """Begin to post."""
        self._poster.start()

    def write(self, data: bytes) -> None:
        """Append as much as the limit leaves; the first byte too many is answered by one last line."""
        with self._lock:
            self.tail = (self.tail + data)[-TAIL:]
            if not data or self._size > self._room:
                return
            kept = data[: self._room - self._size]
            if len(kept) < len(data):
                kept += self._last
            try:
                self._size += self._file.write(kept) or 0
            except OSError:  # the disk is full: the log ends, the command goes on
                self._room = -1
        self._news.set()

    def note(self, text: str) -> None:
        """Say something of our own, on one line that shows whose it is: names in it may hold anything."""
        shown = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
        self.write(f"[taskrunner] {shown}\n".encode("utf-8", "replace"))

    def pump(self, stream: IO[bytes]) -> threading.Thread:
        """Copy a pipe until its end, beyond the limit too: a command must never block on a full pipe."""
        thread = threading.Thread(target=self._copy, args=(stream,), name="pump", daemon=True)
        thread.start()
        return thread

    def _copy(self, stream: IO[bytes]) -> None:
        with stream:
            while data := os.read(stream.fileno(), BATCH):
                self.write(data)

    def close(self, *, patience: float) -> None:
        """Post what is left, for at most `patience` seconds."""
        self._until = now() + patience
        self._closing.set()
        self._news.set()
        if self._poster.ident is not None:
            self._poster.join(patience + PERIOD)
        elif self._posted < self._size:
            self._post()
        self._file.close()

    def _post(self) -> None:
        last = -PERIOD
        with self._source.open("rb") as log:
            while True:
                log.seek(self._posted)
                if batch := log.read(BATCH):
                    if not self._send(batch):
                        return
                    last = now()
                    self._closing.wait(0 if len(batch) == BATCH else PERIOD)
                elif self._closing.is_set():
                    return
                else:
                    self._news.wait()
                    self._news.clear()
                    self._closing.wait(max(0.0, last + PERIOD - now()))

    def _send(self, batch: bytes) -> bool:
        """Post one batch; False when the API will not take more."""
        path = f"logs?offset={self._posted}"
        try:
            status = self._callbacks.send("POST", path, batch, "application/octet-stream", until=lambda: self._until)
        except Unheard:
            return False
        if status >= 300 and status != CONFLICT:  # noqa: PLR2004 - the 2xx; a conflict says that it has them
            return False
        self._posted += len(batch)
        with suppress(OSError):  # the disk is full: a later turn posts again, and is told so
            self._mark.write_text(str(self._posted), "ascii")
        return True
