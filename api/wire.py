"""HTTP/1.1 with a bound on heads: uvicorn's fast parser collects request line and headers without one."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.edge import LARGEST_HEAD


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose head does not end in time; `Edge` refuses one that is too large and complete."""

    _head: int | None = None

    def on_message_begin(self) -> None:
        """Begin to count."""
        self._head = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Count no more: the body has bounds of its own."""
        self._head = None
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Parse, and look how long the head has grown that is not complete yet."""
        super().data_received(data)
        if self._head is not None and not self.transport.is_closing():
            self._head += len(data)
            if self._head > LARGEST_HEAD:
                self.transport.write(
                    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                )
                self.transport.close()
