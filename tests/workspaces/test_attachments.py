"""Attachments: under their own names, inside their directory, all or nothing."""

from collections.abc import AsyncIterator

import pytest

from domain.errors import Failure
from tests.workspaces.conftest import Bench
from workspaces.attachments import safe_name


async def pieces(*content: bytes) -> AsyncIterator[bytes]:
    """Give a body in pieces."""
    for piece in content:
        yield piece


async def test_attachment_is_where_the_command_looks(bench: Bench) -> None:
    """A second transfer changes nothing; another attachment of the same name gets its id before it."""
    await bench.prepare(command=["sh", "-c", 'cd "$TASKRUNNER_ATTACHMENTS_DIR" && tail -n +1 *'])
    for _ in range(2):
        done = await bench.provider.transfer_attachment(
            bench.order.workspace_id, "att-1", "data.csv", pieces(b"a,", b"b\n")
        )
        assert done.details == {"name": "data.csv", "bytes": 4}
    other = await bench.provider.transfer_attachment(bench.order.workspace_id, "att-2", "data.csv", pieces(b"c\n"))
    assert other.details["name"] == "att-2-data.csv"
    await bench.start()
    await bench.exit()
    await bench.api.one("finished")
    assert bench.api.log == b"==> att-2-data.csv <==\nc\n\n==> data.csv <==\na,b\n"


async def test_transfer_that_breaks_leaves_nothing(bench: Bench) -> None:
    """Half an attachment is none."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionError

    await bench.prepare()
    with pytest.raises(ConnectionError):
        await bench.provider.transfer_attachment(bench.order.workspace_id, "att-1", "data.csv", broken())
    assert list((bench.base / "attachments").iterdir()) == []


async def test_transfer_needs_a_workspace(bench: Bench) -> None:
    """What is not here cannot take anything."""
    with pytest.raises(Failure):
        await bench.provider.transfer_attachment(bench.order.workspace_id, "att-1", "x", pieces(b""))


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\dir\\file.txt", "file.txt"),
        ("..", "attachment"),
        ("", "attachment"),
        ("a\nb\0c", "a_b_c"),
        ("ü" * 300, "ü" * 100),
    ],
)
def test_name_stays_in_its_directory(name: str, safe: str) -> None:
    """The last part only, printable, and no longer than file systems allow."""
    assert safe_name(name) == safe
