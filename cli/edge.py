"""The process edge: settings, read once."""

from typing import TYPE_CHECKING

import typer

from cli.screen import complain

if TYPE_CHECKING:
    from settings import Settings


def read_settings() -> "Settings":
    """Return the settings of this process; a set that contradicts itself ends it with the sentences that say why."""
    from pydantic import ValidationError

    from settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "__".join(str(part) for part in problem["loc"]).upper()
            said = problem["msg"].removeprefix("Value error, ")
            complain(f"TASKRUNNER_{name}: {said}" if name else said)
        raise typer.Exit(2) from None
