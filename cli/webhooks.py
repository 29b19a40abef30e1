"""`taskrunner webhooks …`: where the project's events are delivered to."""

from typing import Annotated

import typer

from cli.data_dir import DEFAULT, DataDirOption
from cli.remote import connect
from cli.screen import JsonOption, clock, console, escape, print_json, table

app = typer.Typer(help="Have events delivered to an address of yours.", no_args_is_help=True)

WebhookId = Annotated[str, typer.Argument(help="The webhook's id.", metavar="WEBHOOK")]


@app.command()
def create(
    url: Annotated[str, typer.Argument(help="https, and public.", metavar="URL")],
    event: Annotated[list[str], typer.Option(help="A type of event, as task.completed; may be given again.")],
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    *,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Make a webhook and print the secret that its messages are signed with, this once."""
    with connect(data_dir) as remote:
        made = remote.post("/v1/webhooks", {"url": url, "events": event, "description": description})
    if as_json:
        print_json(made)
        return
    console().print(f"{made['id']}\n{escape(made['secret'])}")


@app.command("list")
def list_webhooks(*, as_json: JsonOption = False, data_dir: DataDirOption = DEFAULT) -> None:
    """List the webhooks, without their secrets."""
    with connect(data_dir) as remote:
        found = list(remote.pages("/v1/webhooks", limit=1000))
    if as_json:
        print_json(found)
        return
    table(
        ("id", "url", "events", "created", "disabled"),
        [
            (
                each["id"],
                escape(each["url"]),
                ",".join(each["events"]),
                clock(each["created_at"]),
                clock(each["disabled_at"]),
            )
            for each in found
        ],
    )


@app.command()
def deliveries(
    webhook_id: WebhookId,
    state: Annotated[str | None, typer.Option(help="Only pending, delivered or exhausted ones.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    *,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """List what was delivered or is to be, the newest first."""
    with connect(data_dir) as remote:
        found = list(remote.pages(f"/v1/webhooks/{webhook_id}/deliveries", limit=limit, state=state))
    if as_json:
        print_json(found)
        return
    table(
        ("id", "type", "task", "seq", "state", "tries", "next try", "last"),
        [
            (
                each["id"],
                each["type"],
                each["task_id"],
                str(each["seq"]),
                each["state"],
                str(each["tries"]),
                clock(each["next_try_at"]),
                escape(str(each["last_error"] or each["last_status"] or "-")),
            )
            for each in found
        ],
    )


@app.command()
def redeliver(
    webhook_id: WebhookId,
    delivery_id: Annotated[str, typer.Argument(help="The delivery's id.", metavar="DELIVERY")],
    *,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Send a delivery again, whatever became of it."""
    with connect(data_dir) as remote:
        remote.post(f"/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver")
    console().print(f"{escape(delivery_id)} is pending")


@app.command()
def rotate(webhook_id: WebhookId, *, as_json: JsonOption = False, data_dir: DataDirOption = DEFAULT) -> None:
    """Print another secret; for a day messages are signed with the one before, too."""
    with connect(data_dir) as remote:
        made = remote.post(f"/v1/webhooks/{webhook_id}/rotate")
    if as_json:
        print_json(made)
        return
    console().print(escape(made["secret"]))


@app.command()
def delete(webhook_id: WebhookId, *, data_dir: DataDirOption = DEFAULT) -> None:
    """Deliver no more; what is pending is dropped."""
    with connect(data_dir) as remote:
        remote.delete(f"/v1/webhooks/{webhook_id}")
    console().print(f"deleted {escape(webhook_id)}")
