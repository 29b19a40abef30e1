"""A task's output as it is read: bytes from a position on, handed out as whole lines."""

import codecs

import httpx2

from cli.remote import Remote, problem

PAUSE = 1.0  # seconds after a failed read: the stream beside it says whether the API is away


class Output:
    """What one attempt after the other wrote. Each byte is shown once, whoever asked for it first."""

    def __init__(self, remote: Remote, task_id: str) -> None:
        self.truncated = False
        self._remote = remote
        self._path = f"/v1/tasks/{task_id}/logs"
        self._attempt = 1
        self._offset = 0
        self._begin()

    def _begin(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._half_line = ""

    def turn_to(self, attempt: int) -> None:
        """Read this attempt from now on."""
        self._attempt, self._offset = attempt, 0
        self._begin()

    async def read(
        self, client: httpx2.AsyncClient, *, wait: bool = False, last: bool = False
    ) -> tuple[list[str], bool]:
        """Return the lines that came since, and whether more may come.

        Half a line is kept back unless this is the last read. `wait` lets the server wait a while for something new.
        Raises RemoteError.
        """
        attempt, offset = self._attempt, self._offset
        try:
            answer = await client.get(self._path, params={"attempt": attempt, "offset": offset, "follow": wait})
        except httpx2.TransportError as error:
            raise self._remote.unreachable(error) from error
        if not answer.is_success:
            raise problem(answer)
        if attempt != self._attempt:
            return [], True
        # Another read may have come back first.
        fresh = answer.content[max(0, self._offset - offset) :]
        self._offset += len(fresh)
        self.truncated = answer.headers["X-Truncated"] == "true"
        text = self._half_line + self._decoder.decode(fresh, final=last)
        *lines, self._half_line = text.split("\n")
        if last and self._half_line:
            lines.append(self._half_line)
            self._half_line = ""
        return [line.rstrip("\r") for line in lines], answer.headers["X-Live"] == "true"
