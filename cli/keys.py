"""`taskrunner keys …`: API keys of the project."""

from typing import Annotated

import typer

from cli.data_dir import DEFAULT, DataDirOption
from cli.remote import connect
from cli.screen import JsonOption, clock, console, escape, print_json, table

app = typer.Typer(help="API keys: shown once, stored as a hash.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.", metavar="NAME")],
    scope: Annotated[list[str], typer.Option(help="tasks:read, tasks:write, workspaces:write, nodes:write or admin.")],
    *,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Make a key and print it, this once."""
    with connect(data_dir) as remote:
        made = remote.post("/v1/keys", {"name": name, "scopes": scope})
    if as_json:
        print_json(made)
        return
    console().print(escape(made["key"]))


@app.command("list")
def list_keys(*, as_json: JsonOption = False, data_dir: DataDirOption = DEFAULT) -> None:
    """List the keys, without the keys themselves."""
    with connect(data_dir) as remote:
        keys = list(remote.pages("/v1/keys", limit=1000))
    if as_json:
        print_json(keys)
        return
    table(
        ("id", "name", "scopes", "created", "revoked"),
        [
            (
                key["id"],
                escape(key["name"]),
                ",".join(key["scopes"]),
                clock(key["created_at"]),
                clock(key["revoked_at"]),
            )
            for key in keys
        ],
    )


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id.", metavar="ID")], *, data_dir: DataDirOption = DEFAULT
) -> None:
    """Make a key useless from now on."""
    with connect(data_dir) as remote:
        remote.delete(f"/v1/keys/{key_id}")
    console().print(f"revoked {escape(key_id)}")
