"""Tasks over HTTP: made, shown, listed, started, cancelled."""

from tests.api.harness import Api


async def test_a_created_task_is_there_with_its_events_while_the_engine_is_away(api: Api) -> None:
    """201 with the whole representation; the log holds `created` and `queued`, numbered 1 and 2."""
    task = await api.create(name="first", labels={"team": "a"}, priority=2)
    shown = (await api.client.get(f"/v1/tasks/{task['id']}")).json()
    assert task == shown | {"updated_at": task["updated_at"]}
    assert (task["status"], task["attempt"], task["last_seq"]) == ("queued", 1, 2)
    assert [(event["seq"], event["type"]) for event in await api.events(task["id"])] == [
        (1, "task.created"),
        (2, "task.queued"),
    ]
