"""What the commands that hold tasks have in common with those that hold runs: `path` is the task's or the run's."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.remote import connect
from cli.screen import console, escape, print_json

Reason = Annotated[str | None, typer.Option(help="Shown to whoever wonders why it is held.")]


def hold(data_dir: Path, path: str, reason: str | None) -> Any:
    """Ask it to hold."""
    with connect(data_dir) as remote:
        return remote.post(f"{path}/pause", {"reason": reason} if reason is not None else {})


def let_go(data_dir: Path, path: str, token: str | None) -> Any:
    """Let it go on, by this token or by its own."""
    with connect(data_dir) as remote:
        # Without a pause there is no token to give: the API says so in its own words.
        given = token or remote.get(path)["pause_token"] or "none"
        return remote.post(f"{path}/resume", {"token": given})


def hold_at(
    data_dir: Path, path: str, before: list[str] | None, after: list[str] | None, *, each_step: bool
) -> tuple[Any, str]:
    """Replace its breakpoints; returns them as the API has them now, and in words."""
    body = {"before": before or [], "after": after or [], "each_step": each_step}
    with connect(data_dir) as remote:
        answer = remote.put(f"{path}/breakpoints", body)
    places = [f"{side} {name}" for side in ("before", "after") for name in answer[side]]
    places += ["after each step"] if answer["each_step"] else []
    return answer, ", ".join(places) or "none"


def tell(answer: dict[str, Any], sentence: str, *, as_json: bool) -> None:
    """Print the answer as JSON, or what it comes to."""
    if as_json:
        print_json(answer)
    else:
        console().print(escape(sentence))
