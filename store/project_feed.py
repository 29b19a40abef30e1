"""Feeds, of a project and of a run: the events of their tasks and runs, under one numbering given after their commits.

Nobody numbers while nobody reads: a write touches its own task only, and whoever reads has what is new numbered first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.names import ProjectId, RunId
from store.feed import Entry
from store.models import FeedRow

_SEQUENCE: Final = text("SELECT sequence_feeds(:most)")
_NEW: Final = text("""
SELECT w.id, n.seq, coalesce(e.type, o.type) AS type,
       CASE WHEN e.task_id IS NULL THEN run_event_envelope(r, o) ELSE event_envelope(t, e) END AS envelope
FROM unnest(CAST(:feeds AS text[]), CAST(:firsts AS bigint[])) AS w (id, first)
JOIN LATERAL (SELECT * FROM feed_entries WHERE feed = w.id AND seq >= w.first ORDER BY seq LIMIT :limit) n ON true
LEFT JOIN events e ON e.task_id = n.task_id AND e.seq = n.task_seq
LEFT JOIN tasks t ON t.id = n.task_id
LEFT JOIN run_events o ON o.run_id = n.run_id AND o.seq = n.run_seq
LEFT JOIN runs r ON r.id = n.run_id
WHERE e.task_id IS NOT NULL OR o.run_id IS NOT NULL
ORDER BY w.id, n.seq
""")
_PAGE: Final = text("""
SELECT n.seq, coalesce(e.type, o.type) AS type,
       CASE WHEN e.task_id IS NULL THEN run_event_envelope(r, o) ELSE event_envelope(t, e) END AS envelope
FROM feed_entries n
LEFT JOIN events e ON e.task_id = n.task_id AND e.seq = n.task_seq
LEFT JOIN tasks t ON t.id = n.task_id
LEFT JOIN run_events o ON o.run_id = n.run_id AND o.seq = n.run_seq
LEFT JOIN runs r ON r.id = n.run_id
WHERE n.feed = :feed AND n.seq >= :first AND coalesce(e.type, o.type) IS NOT NULL
  AND (CAST(:types AS text[]) IS NULL OR coalesce(e.type, o.type) = ANY(CAST(:types AS text[])))
ORDER BY n.seq LIMIT :limit
""")
_RUN_HEAD: Final = text("""
SELECT coalesce(f.last_seq, 0) AS last_seq, CASE WHEN r.status IN ('completed', 'failed', 'cancelled') THEN (
  SELECT n.seq FROM feed_entries n WHERE n.feed = :feed AND n.run_id = r.id AND n.run_seq = r.last_seq
) END AS "end"
FROM runs r LEFT JOIN feeds f ON f.id = :feed
WHERE r.id = :run AND r.project = :project
""")


@dataclass(frozen=True, kw_only=True)
class RunHead:
    """Where the feed of a run ends by now; `end` is the number of the event that has ended the run."""

    last_seq: int
    end: int | None


def feed_of(project: ProjectId) -> str:
    """Return the id of a project's feed."""
    return f"project:{project}"


def feed_of_run(run: RunId) -> str:
    """Return the id of a run's feed."""
    return f"run:{run}"


async def sequence(connection: AsyncConnection, *, most: int) -> bool:
    """Number what has been committed, about `most` events of it; returns whether there is more. A transaction."""
    return bool((await connection.execute(_SEQUENCE, {"most": most})).scalar_one())


async def head(connection: AsyncConnection, feed: str) -> int:
    """Return the last number of a feed; 0 of one that holds nothing."""
    return (await connection.execute(select(FeedRow.last_seq).where(FeedRow.id == feed))).scalar_one_or_none() or 0


async def head_of_run(connection: AsyncConnection, project: ProjectId, run: str) -> RunHead | None:
    """Return where the feed of this project's run ends; None when there is no such run.

    An end that has no number yet is none yet: it is still to come.
    """
    parameters = {"feed": feed_of_run(RunId(run)), "run": run, "project": project}
    row = (await connection.execute(_RUN_HEAD, parameters)).mappings().one_or_none()
    return RunHead(**row) if row else None


async def page(connection: AsyncConnection, feed: str, *, first: int, types: Sequence[str], limit: int) -> list[Entry]:
    """Return up to `limit` entries of a feed from a number on, of these types if any are given."""
    parameters = {"feed": feed, "first": first, "types": list(types) or None, "limit": limit}
    return [Entry(*row) for row in await connection.execute(_PAGE, parameters)]


async def new(connection: AsyncConnection, firsts: Mapping[str, int], *, limit: int) -> dict[str, list[Entry]]:
    """Return for each feed with something new its entries from a number on, at most `limit` of each."""
    parameters = {"feeds": list(firsts), "firsts": list(firsts.values()), "limit": limit}
    rows = await connection.execute(_NEW, parameters)
    return {feed: [Entry(*row[1:]) for row in some] for feed, some in groupby(rows, key=itemgetter(0))}
