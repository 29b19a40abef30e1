"""Examples below the help of commands: a test reads each of them as the command line would."""

from typing import Final

EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "up": ("taskrunner up --data-dir /var/lib/taskrunner",),
    "demo": ("taskrunner demo --repo https://github.com/you/repo -- make test",),
    "start": (
        "taskrunner start -- make test",
        "taskrunner start --repo https://github.com/you/repo --ref main --setup 'make deps' -- make test",
        "taskrunner start --detach --label team=web -- ./nightly.sh",
    ),
    "watch": ("taskrunner watch", "taskrunner watch --json | grep failed"),
    "health": ("taskrunner health || echo 'look at it'",),
    "reconcile": ("taskrunner reconcile --dry-run",),
    "tasks events": (
        "taskrunner tasks events TASK --follow",
        "taskrunner tasks events TASK --type step.failed --json",
    ),
    "tasks logs": ("taskrunner tasks logs TASK --follow", "taskrunner tasks logs TASK --attempt 1 > output.txt"),
    "tasks artifacts": ("taskrunner tasks artifacts TASK changes.patch | git apply",),
    "tasks pause": ("taskrunner tasks pause TASK --reason 'a look at its files'",),
    "tasks breakpoints": ("taskrunner tasks breakpoints TASK --before agent_session --after running",),
    "tasks followup": ("taskrunner tasks followup TASK 'now write the tests'",),
    "tasks retry": ("taskrunner tasks retry TASK --from-attempt 1 --from-step agent_session",),
    "tasks list": (
        "taskrunner tasks list --status failed --label team:web --limit 100",
        "taskrunner tasks list --run RUN --json",
    ),
    "runs create": ("taskrunner runs create ci.yaml --follow", "taskrunner runs create - < ci.json"),
    "runs list": ("taskrunner runs list --status failed --label example:ci",),
    "runs show": (
        "taskrunner runs show RUN --watch",
        "taskrunner runs show RUN --format mermaid > run.mmd",
        "taskrunner runs show RUN --format json",
    ),
    "runs events": ("taskrunner runs events RUN --follow", "taskrunner runs events RUN --type run.superstep --json"),
    "runs pause": ("taskrunner runs pause RUN --reason 'a look at the first results'",),
    "runs breakpoints": ("taskrunner runs breakpoints RUN --before deploy --after test",),
    "runs command": ("taskrunner runs command RUN more.yaml",),
    "runs retry": ("taskrunner runs retry RUN --from-attempt 1",),
    "webhooks create": (
        "taskrunner webhooks create https://example.com/hook --event task.completed --event task.failed",
    ),
    "webhooks deliveries": ("taskrunner webhooks deliveries WEBHOOK --state exhausted",),
    "nodes join": (
        "taskrunner nodes join --api https://tasks.example.com --token-file node.token --slots 8 --label gpu=yes",
    ),
    "nodes drain": ("taskrunner nodes drain node-7", "taskrunner nodes drain node-7 --gone"),
    "nodes tokens create": ("taskrunner nodes tokens create node-7 > node.token",),
    "keys create": ("taskrunner keys create dashboard --scope tasks:read",),
}


def epilog(command: str) -> str | None:
    """Return a command's examples, each a paragraph; None where its name says it all."""
    lines = EXAMPLES.get(command)
    return "\n\n".join(("Examples:", *lines)) if lines else None
