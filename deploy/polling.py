"""Health of a worker, which has no port: `polling.py QUEUE` is 0 when Temporal has seen this host poll the queue.

A process that hangs stops polling, and Temporal forgets a poller after five minutes; the last poll counts if it is
younger than two, because a poll without work lasts one.
"""

import asyncio
import socket
import sys
from datetime import UTC, datetime, timedelta

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

from worker import connect

FRESH = timedelta(minutes=2)
LIMIT = timedelta(seconds=10)
TYPES = (TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY)


async def polls(client: Client, queue: str, *, host: str) -> bool:
    """Return whether a process of this host polled the queue lately."""
    for kind in TYPES:
        request = DescribeTaskQueueRequest(
            namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind
        )
        answer = await client.workflow_service.describe_task_queue(request, timeout=LIMIT)
        for poller in answer.pollers:
            age = datetime.now(UTC) - poller.last_access_time.ToDatetime(UTC)
            if poller.identity.endswith(f"@{host}") and age < FRESH:
                return True
    return False


async def healthy(queue: str) -> bool:
    """Ask the server of the environment."""
    return await polls(await connect(), queue, host=socket.gethostname())


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(healthy(sys.argv[1])) else 1)
