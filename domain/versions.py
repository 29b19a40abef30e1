"""The versions of flushes, by which a fence tells what is newer: their parts, the first one highest."""

from typing import Final

# How often a workflow has continued as new, or begun anew from its rows: its base, which is what is left of a bigint.
# Below it the history's length (the server ends one of 51,200 events), its age in seconds, and an ordinal.
HISTORY_BITS: Final = 18
SECONDS_BITS: Final = 24
ORDINAL_BITS: Final = 8
BASE_BITS: Final = HISTORY_BITS + SECONDS_BITS + ORDINAL_BITS
LAST_BASE: Final = 2 ** (63 - BASE_BITS) - 1


def base_after(version: int) -> int:
    """Return the least base whose versions are all above this one; 0 where nothing was written yet."""
    return (version >> BASE_BITS) + 1 if version else 0
