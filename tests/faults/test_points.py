"""The failpoints are complete: no commit, no call to the engine and none to a provider lies outside of one."""

import ast
from collections import Counter
from collections.abc import Iterator
from inspect import iscoroutinefunction

from temporalio.client import Client, WorkflowHandle

from domain.failpoints import AFTER, BEFORE
from tests.faults.points import NAMED, called, points, sites, trees
from workspaces.provider import WorkspaceProvider

# Who may open connections, and why no failpoint is needed there.
CONNECTS = {
    "store/engine.py": "the pool, and the connection of those who listen",
    "store/migrate.py": "the upgrade, one at a time under a lock of its own",
    "store/migrations/env.py": "the upgrade",
    "cli/embedded/postgres.py": "makes databases for tests and the embedded stack",
}
# Calls that only look, and those of the process edge.
LOOKS = {
    ("workflows/gateway.py", "check_health"),
    ("cli/engine.py", "list_search_attributes"),
    ("cli/engine.py", "add_search_attributes"),
    ("worker.py", "connect"),
    ("node.py", "connect"),
    ("workflows/schedule.py", "create_schedule"),  # at each start, one that is there is left
    ("cli/reconcile.py", "execute_workflow"),  # a person's command, who sees what became of it
}
ENGINE = {
    name
    for owner in (Client, WorkflowHandle)
    for name in dir(owner)
    if not name.startswith("_") and iscoroutinefunction(getattr(owner, name))
}
PROVIDER = {name for name in dir(WorkspaceProvider) if iscoroutinefunction(getattr(WorkspaceProvider, name))}


def unguarded(tree: ast.AST, names: set[str], *, within: bool = False) -> Iterator[ast.Call]:
    """Yield the awaited calls of these names that lie in no boundary."""
    for node in ast.iter_child_nodes(tree):
        guarded = within
        if isinstance(node, ast.With):
            opened = [item.context_expr for item in node.items]
            guarded = within or any(isinstance(each, ast.Call) and called(each) == "boundary" for each in opened)
        if isinstance(node, ast.Await) and isinstance(node.value, ast.Call):
            call = node.value
            if not within and isinstance(call.func, ast.Attribute) and call.func.attr in names:
                yield call
        yield from unguarded(node, names, within=guarded)


def imports(tree: ast.Module, module: str) -> bool:
    """Whether a module imports from another one."""
    return any(isinstance(node, ast.ImportFrom) and node.module == module for node in ast.walk(tree))


def test_each_boundary_has_a_name_of_its_own() -> None:
    """No name twice, and each is a noun and a verb."""
    counts = Counter(site.name for site in sites())
    assert [name for name, count in counts.items() if count > 1] == []
    assert [name for name in counts if len(name.split(".")) != 2] == []
    assert len(points()) == 2 * len(counts)
    assert {point.rpartition(":")[1] + point.rpartition(":")[2] for point in points()} == {BEFORE, AFTER}


def test_connections_are_opened_in_four_places() -> None:
    """Everything else goes through `read`, `commit` and `begin`."""
    makers = {"create_engine", "create_async_engine", "AsyncConnection"}
    opening = {
        file
        for file, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and (called(node) in makers or _receiver(node) in makers)
    }
    assert opening == CONNECTS.keys()


def _receiver(call: ast.Call) -> str:
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    return owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")


def test_every_transaction_has_a_literal_name() -> None:
    """`begin` and `commit` of a database get a name, but where a name is passed on."""
    passed_on = {"store/engine.py", "api/idempotency.py"}
    nameless = [
        (file, node.lineno)
        for file, tree in trees()
        if file not in passed_on
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and called(node) in NAMED and "database" in ast.unparse(node.func)
        if not (node.args and isinstance(node.args[0], ast.Constant))
    ]
    assert nameless == []


def test_no_call_to_the_engine_is_outside() -> None:
    """Who knows Temporal's client calls it within a boundary, or only looks."""
    outside = {
        (file, called(call), call.lineno)
        for file, tree in trees()
        if imports(tree, "temporalio.client")
        for call in unguarded(tree, ENGINE)
    }
    assert {(file, name) for file, name, _ in outside} <= LOOKS, outside


def test_no_call_to_a_provider_is_outside() -> None:
    """A node's adapter calls its providers within boundaries."""
    outside = [
        (file, called(call), call.lineno)
        for file, tree in trees()
        if file.startswith("activities/") and imports(tree, "workspaces.provider")
        for call in unguarded(tree, PROVIDER)
    ]
    assert outside == []
