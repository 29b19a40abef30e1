"""The process edge: settings, read once."""

from typing import TYPE_CHECKING

import typer

from cli.screen import complain

if TYPE_CHECKING:
    from settings import Settings


def read_settings() -> "Settings":
    """Return the settings of this process; a set that contradicts itself ends it with the sentences that say why."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from domain.reasons import reason_of
    from settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "__".join(str(part) for part in problem["loc"]).upper()
            said = reason_of(problem)
            complain(f"TASKRUNNER_{name}: {said}" if name else said)
        raise typer.Exit(2) from None
    except SettingsError as error:
        _, field, _ = str(error).split('"', 2)  # its one way to say which
        complain(f"TASKRUNNER_{field.upper()}: is not JSON")
        raise typer.Exit(2) from None
