"""Attachments in a workspace: each under its own name in a directory beside the work."""

import os
from collections.abc import AsyncIterator
from typing import Final

from workspaces.inside import trees
from workspaces.layout import Layout, write_private

NOTE: Final = 1000  # bytes of a stored name
LONGEST: Final = 200  # bytes of a file name, with room for a prefix under the file systems' 255


def safe_name(name: str) -> str:
    """Return a file name that stays in its directory and has only printable characters."""
    last = name.replace("\\", "/").rpartition("/")[2]
    kept = "".join(character if character.isprintable() else "_" for character in last).strip()
    short = kept.encode("utf-8", "replace")[:LONGEST].decode("utf-8", "ignore")
    return short if short.strip(".") else "attachment"


async def store(layout: Layout, attachment_id: str, name: str, content: AsyncIterator[bytes]) -> tuple[str, int]:
    """Write an attachment, all of it or nothing; return its name and size. A second call replaces the first one's file.

    When another attachment has taken the name, the id comes before it.
    """
    records = layout.own / "attachments"
    records.mkdir(mode=0o700, exist_ok=True)
    own = records / safe_name(attachment_id)
    others = (path.name for path in records.iterdir() if path != own and not path.name.startswith("."))
    taken = {trees.text(records, other, most=NOTE) for other in others}
    target = layout.attachments / safe_name(name)
    if target.name in taken:
        target = layout.attachments / f"{safe_name(attachment_id)}-{target.name}"
    draft = records / f".{os.urandom(8).hex()}"
    try:
        with draft.open("wb") as file:
            async for piece in content:
                file.write(piece)
            if layout.owner is not None:
                os.fchown(file.fileno(), layout.owner, layout.owner)
            size = file.tell()
        write_private(own, target.name)
        # By descriptor: what a command made of the directory, a link perhaps, is not followed.
        folder = os.open(layout.attachments, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.replace(draft, target.name, dst_dir_fd=folder)
        finally:
            os.close(folder)
    finally:
        draft.unlink(missing_ok=True)
    return target.name, size
