"""Agent presets: what a coding agent's name means on this node, as an argv template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from domain.errors import Category, Failure
from domain.spec import TaskSpec

PROMPT: Final = "{prompt}"

# Both read the prompt from standard input: there it may be long, and no process list shows it.
DEFAULTS: Final[Mapping[str, Sequence[str]]] = {
    "claude": ("claude", "--print", "--permission-mode", "acceptEdits"),
    "codex": ("codex", "exec", "--sandbox", "workspace-write", "--skip-git-repo-check", "-"),
}


@dataclass(frozen=True)
class Invocation:
    """What to execute, and what to give it on standard input (None: nothing)."""

    argv: list[str]
    stdin: str | None = None


def invocation(spec: TaskSpec, presets: Mapping[str, Sequence[str]], *, prompt: str | None = None) -> Invocation:
    """Return what a turn executes. Raises Failure `unknown_preset`.

    `prompt` is the message of a follow-up. A template's element `{prompt}` becomes the prompt, as one argument;
    a template without it, and a command, get the prompt on standard input.
    """
    if spec.command is not None:
        return Invocation(list(spec.command), prompt)
    if spec.agent is None:  # the spec's own validator forbids it
        raise AssertionError
    template = presets.get(spec.agent.preset)
    if not template:
        known = ", ".join(sorted(presets)) or "none"
        raise Failure(
            "unknown_preset",
            f"The node has no agent preset named {spec.agent.preset}.",
            category=Category.INPUT,
            guidance=f"Use one of the node's presets ({known}), or add it to the node's settings.",
        )
    text = spec.agent.prompt if prompt is None else prompt
    argv = [part.replace(PROMPT, text) for part in template]
    return Invocation(argv, None if any(PROMPT in part for part in template) else text)
