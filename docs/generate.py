"""Write the pages that are made from code: `python -m docs.generate` writes them, a test says when one has drifted."""

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from api.app import assemble
from api.openapi import settle
from domain.errors import GUIDANCE, TRANSIENT_CATEGORIES
from domain.events import STATUS_OF_EVENT
from domain.lifecycle import (
    MEMBER_TRANSITIONS,
    NEXT_STEP,
    NODE_TRANSITIONS,
    RUN_TRANSITIONS,
    STEP_ORDER,
    TASK_TRANSITIONS,
    WORKSPACE_TRANSITIONS,
    Step,
    StepOutcome,
)
from domain.policy import Policy
from domain.run_spec import RunSpec
from settings import PREFIX, SECRETS_DIR, Settings
from telemetry.metrics import HealthGauges, Metrics

HERE: Final = Path(__file__).parent
MADE: Final = "<!-- Made by `make docs` from the code; a test says when it has drifted. -->"
ONWARD: Final = (StepOutcome.DONE, StepOutcome.SKIPPED, StepOutcome.FAILED, StepOutcome.CANCELLED)


def span(value: timedelta) -> str:
    """Return a duration as a person says it: `2 h`, `15 min`, `60 s`."""
    seconds = value.total_seconds()
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds > unit and seconds % unit == 0:
            return f"{seconds / unit:g} {name}"
    return f"{seconds:g} s"


def table(heads: list[str], rows: list[list[str]]) -> Iterator[str]:
    """Give the lines of a Markdown table."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def transitions(title: str, pairs: Mapping[Any, frozenset[Any]]) -> Iterator[str]:
    """Give a lifecycle's table."""
    order = list(pairs)
    allowed = {old: ", ".join(f"`{new}`" for new in sorted(pairs[old], key=order.index)) for old in order}
    rows = [[f"`{old}`", allowed[old] or "(none)"] for old in order]
    yield from (f"## {title}", "", *table(["from", "allowed to"], rows), "")


def diagram(pairs: Mapping[Any, frozenset[Any]]) -> Iterator[str]:
    """Give a state diagram."""
    order = list(pairs)
    yield from ("```mermaid", "stateDiagram-v2", f"    [*] --> {order[0]}")
    for old in order:
        yield from (f"    {old} --> {new}" for new in sorted(pairs[old], key=order.index))
        if not pairs[old]:
            yield f"    {old} --> [*]"
    yield from ("```", "")


def steps() -> Iterator[str]:
    """Give the pipeline: what each step does, its budget, and where its outcomes lead."""
    budgets, retry = Policy().budgets, Policy().step_retry
    rows = []
    for step in STEP_ORDER:
        does = (importlib.import_module(f"workflows.steps.{step}").__doc__ or "").strip().split("\n\n")[0]
        budget = getattr(budgets, step, None)
        bound = span(budget) if budget else f"{retry.tries} tries"
        detours = [
            f"`{outcome}` → `{following}`"
            for (of, outcome), following in NEXT_STEP.items()
            if of is step and outcome not in ONWARD
        ]
        rows.append([f"`{step}`", " ".join(does.split()), bound, ", ".join(detours)])
    about = (
        "In order. `done` and `skipped` lead to the next step, `failed` and `cancelled` to `cleanup`; the last column",
        "has the only other ways. Budgets are per visit and can be set (see [settings](settings.md)).",
        "",
        f"`{Step.RUNNING}` warns after {span(budgets.running_soft)} and ends at the latest after",
        f"{span(budgets.running_absolute)}, over all turns of an attempt. An effect on a node is tried {retry.tries}",
        f"times on a transient error, {span(retry.first_delay)} apart and doubling up to {span(retry.longest_delay)};",
        "a write of the mirror for as long as the database is away.",
    )
    yield from ("## Steps", "", *about, "", *table(["step", "does", "budget (default)", "other ways"], rows), "")


def listed(title: str, about: str, heads: list[str], rows: list[list[str]]) -> Iterator[str]:
    """Give a section with a table."""
    yield from (f"## {title}", "", about, "", *table(heads, rows), "")


def lifecycle() -> str:
    """Return `lifecycle.md`."""
    lines = [MADE, "", "# Lifecycle", "", "Everything below is one set of tables in `domain/lifecycle.py`.", ""]
    lines += [*transitions("Task", TASK_TRANSITIONS), *diagram(TASK_TRANSITIONS), *steps()]
    lines += [*transitions("Workspace", WORKSPACE_TRANSITIONS), *transitions("Node", NODE_TRANSITIONS)]
    lines += [*transitions("Run", RUN_TRANSITIONS), *transitions("Member of a run", MEMBER_TRANSITIONS)]
    lines += listed(
        "Events that change the status",
        "Folding a log over this table gives the task's row; every other event leaves the status alone.",
        ["event", "status"],
        [[f"`{event}`", f"`{status}`"] for event, status in STATUS_OF_EVENT.items()],
    )
    lines += listed(
        "Error categories",
        "A new attempt is made for a transient one, as far as tries are left and the body's `retry.on` names it. Of "
        "the others it is made where `retry.on` names the category: `agent` is for commands that fail now and then.",
        ["category", "transient", "what to do"],
        [[f"`{c}`", "yes" if c in TRANSIENT_CATEGORIES else "no", GUIDANCE[c]] for c in GUIDANCE],
    )
    return "\n".join(lines).rstrip() + "\n"


def shown(value: Any) -> str:
    """Return a default as it would stand in the environment."""
    match value:
        case SecretStr() | None | "":
            return "(empty)"
        case timedelta():
            return span(value)
        case StrEnum() | str() | Path():
            return f"`{value}`"
        case _:
            return f"`{json.dumps(value)}`"


def kind(field: FieldInfo) -> str:
    """Return the name of a setting's type."""
    names: list[tuple[Any, str]] = [
        (timedelta, "duration"),
        (timedelta | None, "duration"),
        (SecretStr, "secret"),
        (Path, "path"),
        (bool, "bool"),
        (int, "int"),
        (int | None, "int"),
        (float, "number"),
        (str, "text"),
    ]
    found = [name for annotation, name in names if field.annotation == annotation]
    shown = str(field.annotation)
    if shown.startswith("typing.Literal"):
        return "word"
    return found[0] if found else "path" if "Path" in shown else "duration" if "timedelta" in shown else "JSON"


def rows(model: type[BaseModel], prefix: str) -> Iterator[list[str]]:
    """Give a row for each setting of a group that is no group itself."""
    for name, field in model.model_fields.items():
        if group(field) is None:
            default = field.default if field.default is not PydanticUndefined else None
            yield [f"`{prefix}{name.upper()}`", kind(field), shown(default), field.description or ""]


def group(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a group of settings; None for a setting."""
    found = field.annotation
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def settings() -> str:
    """Return `settings.md`."""
    heads = ["setting", "type", "default", "meaning"]
    about = (
        "Read once, when a process starts; a set that contradicts itself refuses to start and names the settings.",
        "Durations are seconds or ISO-8601 (`90`, `PT1M30S`).",
        "",
        f"Where `{SECRETS_DIR}` names a folder, a setting may be a file in it instead, called by the setting's",
        f"name in small letters (`{PREFIX.lower()}database_url`); the environment wins.",
        "",
        "Temporal's address, namespace, TLS and API key come from Temporal's own environment configuration",
        "(`TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, …).",
    )
    lines = [MADE, "", "# Settings", "", *about, "", *table(heads, list(rows(Settings, PREFIX))), ""]
    for name, field in Settings.model_fields.items():
        if (model := group(field)) is not None:
            lines += listed(
                name.replace("_", " ").capitalize(),
                " ".join((model.__doc__ or "").split()),
                heads,
                list(rows(model, f"{PREFIX}{name.upper()}__")),
            )
    return "\n".join(lines).rstrip() + "\n"


def metrics() -> str:
    """Return `metrics.md`."""
    process, health = Metrics(), CollectorRegistry()
    HealthGauges(health)
    about = (
        "Labels are words of the product (statuses, steps, routes, names of calls), never ids. A histogram has",
        "`…_bucket`, `…_sum` and `…_count`. How to fetch them, and what else there is: [monitoring.md](monitoring.md).",
    )
    lines = [MADE, "", "# Metrics", "", *about, ""]
    lines += listed(
        "Of each process",
        "What does not happen in a process stays empty there: requests are the API's, tasks the control workers'.",
        METRIC_HEADS,
        list(metric_rows(process.registry)),
    )
    lines += listed(
        "Of the whole",
        "The numbers of the health report, over all projects; each API process tells the same.",
        METRIC_HEADS,
        list(metric_rows(health)),
    )
    return "\n".join(lines).rstrip() + "\n"


METRIC_HEADS: Final = ["metric", "type", "labels", "meaning"]


def metric_rows(registry: CollectorRegistry) -> Iterator[list[str]]:
    """Give a row for each metric of a registry."""
    for family in registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in labels_of(registry, family.name))
        yield [f"`{name}`", family.type, labels or "(none)", family.documentation]


def labels_of(registry: CollectorRegistry, name: str) -> Sequence[str]:
    """Return the labels of a metric: a family without a sample does not tell them."""
    found = registry._names_to_collectors[name]  # noqa: SLF001 - there is no other way to ask
    return found._labelnames if isinstance(found, MetricWrapperBase) else ()  # noqa: SLF001


def openapi() -> str:
    """Return `openapi.json`, of an application that is connected to nothing."""
    return json.dumps(assemble().openapi(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def run_schema() -> str:
    """Return `run.schema.json`: what `POST /v1/runs` and the file of `taskrunner runs create` take."""
    schema = RunSpec.model_json_schema() | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A run of Taskrunner",
    }
    settle(schema)
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


PAGES: Final = {
    "lifecycle.md": lifecycle,
    "settings.md": settings,
    "metrics.md": metrics,
    "openapi.json": openapi,
    "run.schema.json": run_schema,
}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
