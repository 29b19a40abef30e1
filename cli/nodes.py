"""`taskrunner nodes …`: the machines that host workspaces, and the tokens by which they join."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.data_dir import DEFAULT, DataDirOption
from cli.edge import read_settings
from cli.remote import connect
from cli.screen import JsonOption, clock, complain, console, escape, print_json, table

app = typer.Typer(help="Machines that host workspaces.", no_args_is_help=True)
tokens = typer.Typer(help="Tokens by which machines join: one for each node, shown once.", no_args_is_help=True)
app.add_typer(tokens, name="tokens")

NodeArgument = Annotated[str, typer.Argument(help="The node's id.", metavar="NODE")]


@app.command("list")
def list_nodes(*, as_json: JsonOption = False, data_dir: DataDirOption = DEFAULT) -> None:
    """List the nodes with their status, slots, load and labels."""
    with connect(data_dir) as remote:
        nodes = list(remote.pages("/v1/nodes", limit=10_000))
    if as_json:
        print_json(nodes)
        return
    table(
        ("id", "status", "used", "slots", "cpu", "memory", "labels", "heard"),
        [
            (
                node["id"],
                node["status"],
                str(node["used"]),
                str(node["slots"]),
                _share(node["cpu"]),
                _share(node["memory"]),
                escape(",".join(f"{key}={value}" for key, value in sorted(node["labels"].items()))),
                clock(node["last_heartbeat_at"]),
            )
            for node in nodes
        ],
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


@app.command()
def join(
    *,
    api: Annotated[str | None, typer.Option(envvar="TASKRUNNER_URL", help="The API's address.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="The file of this node's token; else it is TASKRUNNER_NODE_TOKEN.")
    ] = None,
    node_id: Annotated[
        str | None, typer.Option("--id", envvar="TASKRUNNER_NODE_ID", help="The node's id; the token says it, too.")
    ] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Workspaces that it hosts at once.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="A label, NAME=VALUE; may be repeated.")] = None,
    data_dir: Annotated[
        Path,
        typer.Option(
            "--data-dir", envvar="TASKRUNNER_DATA_DIR", help="This node's own folder: its workspaces, and its id."
        ),
    ] = DEFAULT,
) -> None:
    """Make this machine a node, until SIGTERM or until it was drained. It needs no open port."""
    from pydantic import SecretStr

    import node
    from cli import journal
    from cli.serve import run

    settings = read_settings()
    given: dict[str, Any] = {"data_dir": data_dir, "node_id": node_id or ""}
    if api:
        given["url"] = api.rstrip("/")
    if slots is not None:
        given["node_slots"] = slots
    if label:
        given["node_labels"] = settings.node_labels | _labels(label)
    if token_file is not None:
        given["node_token"] = SecretStr(_read(token_file))
    settings = settings.model_copy(update=given)
    if not settings.node_token.get_secret_value():
        complain("a node needs its token: --token-file, or TASKRUNNER_NODE_TOKEN; `nodes tokens create` makes one")
        raise typer.Exit(2)
    journal.configure(level=settings.log_level)
    run(node.run_node(settings))


def _labels(given: list[str]) -> dict[str, str]:
    pairs = [each.partition("=") for each in given]
    if wrong := ["".join(pair) for pair in pairs if not all(pair[:2])]:
        complain(f"a label is NAME=VALUE, which this is not: {', '.join(map(repr, wrong))}")
        raise typer.Exit(2)
    return {name: value for name, _, value in pairs}


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        complain(f"{file}: {error.strerror if isinstance(error, OSError) else 'this is no text, and so no token'}")
        raise typer.Exit(2) from None


@app.command()
def drain(
    node: NodeArgument,
    *,
    gone: Annotated[
        bool, typer.Option("--gone", help="The machine does not come back: what runs there is tried again elsewhere.")
    ] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Give a node no more tasks; when those that it has are over, it is gone, and its process ends."""
    with connect(data_dir) as remote:
        found = remote.post(f"/v1/nodes/{node}/drain", {"gone": gone})
    if as_json:
        print_json(found)
        return
    rest = f", {found['used']} of its slots are taken" if found["used"] else ""
    console().print(f"{escape(found['id'])} is {found['status']}{rest}")


@tokens.command()
def create(node: NodeArgument, *, as_json: JsonOption = False, data_dir: DataDirOption = DEFAULT) -> None:
    """Make a token for one node and print it, this once."""
    with connect(data_dir) as remote:
        made = remote.post("/v1/keys", {"name": f"node {node}", "scopes": ["nodes:write"], "node_id": node})
    if as_json:
        print_json(made)
        return
    console().print(escape(made["key"]))


@tokens.command("list")
def list_tokens(*, as_json: JsonOption = False, data_dir: DataDirOption = DEFAULT) -> None:
    """List the tokens of nodes, without the tokens themselves."""
    with connect(data_dir) as remote:
        found = [key for key in remote.pages("/v1/keys", limit=10_000) if key["node_id"] is not None]
    if as_json:
        print_json(found)
        return
    rows = [(key["id"], key["node_id"], clock(key["created_at"]), clock(key["revoked_at"])) for key in found]
    table(("id", "node", "created", "revoked"), rows)


@tokens.command()
def revoke(
    token_id: Annotated[str, typer.Argument(help="The token's id, not its text.", metavar="ID")],
    *,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Make a token useless from now on. A node whose last one it was gets no more tasks."""
    with connect(data_dir) as remote:
        remote.delete(f"/v1/keys/{token_id}")
    console().print(f"revoked {escape(token_id)}")
