"""What a caller asks for with a run: the body of `POST /v1/runs`, with every rule that can be checked at the door.

The shape is checked here; whether the edges make a graph, and whether every member can be reached, in `domain.plan`.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

from domain.durations import Span
from domain.graph import EdgeKind
from domain.spec import PRIORITY_DEFAULT, STORABLE, Body, Flag, Json, Label, LabelValue, Name, Number, TaskSpec, Text

MEMBER_LIMIT: Final = 10_000
EDGE_LIMIT: Final = 50_000
ITEM_LIMIT: Final = 10_000
# All tasks that are known at the door: those of `items_from` come later.
TASK_LIMIT: Final = 10_000
# What a command may bring along, and how large a run's state may become: bytes of JSON.
STATE_BYTES: Final = 256_000

MEMBER_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
MemberName = Annotated[str, StringConstraints(pattern=MEMBER_PATTERN, max_length=100)]
Pointer = Annotated[str, StringConstraints(pattern=r"^(/([^~/]|~[01])*)*$", max_length=1024), STORABLE]
_ITEMS_FROM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}#(/([^~/]|~[01])*)*")


class RunMode(StrEnum):
    """When a member starts: as soon as its last dependency has ended, or with the next frontier."""

    EAGER = "eager"
    SUPERSTEP = "superstep"


class OnFailure(StrEnum):
    """What becomes of the others when a member has failed."""

    FAIL_FAST = "fail_fast"
    CONTINUE = "continue"
    SKIP_DEPENDENTS = "skip_dependents"


class Reducer(StrEnum):
    """How a key of a member's `result.state` is merged into the run's state."""

    REPLACE = "replace"
    APPEND = "append"
    MERGE = "merge"
    SUM = "sum"


class Operator(StrEnum):
    """How a condition compares what its pointer finds with its value."""

    EQ = "eq"
    NE = "ne"
    LT = "lt"
    LE = "le"
    GT = "gt"
    GE = "ge"
    IN = "in"
    CONTAINS = "contains"
    EXISTS = "exists"


class Condition(Body):
    """What must hold of the result of an upstream that has completed; `pointer` is a JSON Pointer (RFC 6901)."""

    pointer: Pointer = ""
    op: Operator = Operator.EQ
    value: Json = None

    @model_validator(mode="after")
    def _value_of_its_kind(self) -> Self:
        types, kind = _COMPARED_WITH.get(self.op, ((), ""))
        if types and type(self.value) not in types:
            raise ValueError(f"`{self.op}` needs {kind} as `value`")
        return self


_ORDERED: Final = ((int, float, str), "a number or text")
# With anything else these operators would never hold.
_COMPARED_WITH: Final[Mapping[Operator, tuple[tuple[type, ...], str]]] = {
    **dict.fromkeys((Operator.LT, Operator.LE, Operator.GT, Operator.GE), _ORDERED),
    Operator.IN: ((list,), "a list"),
    Operator.EXISTS: ((bool,), "true or false"),
}


class Outcome(StrEnum):
    """Which end of an upstream an edge waits for; `finished` is any end, being skipped too."""

    COMPLETED = "completed"
    FAILED = "failed"
    FINISHED = "finished"


def _kind_of_when(given: Any) -> str:
    """Tell the two apart, so that what is wrong with one is not said of both."""
    return "condition" if isinstance(given, dict | Condition) else "outcome"


When = Annotated[
    Annotated[Outcome, Tag("outcome")] | Annotated[Condition, Tag("condition")], Discriminator(_kind_of_when)
]


class RunEdge(Body):
    """`to` comes after `from`; a `preferred_order` never keeps anybody waiting. Without `when`: `completed`."""

    from_: MemberName = Field(alias="from")
    to: MemberName
    kind: EdgeKind = EdgeKind.BLOCKING
    when: When | None = None
    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)

    @model_validator(mode="after")
    def _only_blocking_ones_wait(self) -> Self:
        if self.when is not None and self.kind is not EdgeKind.BLOCKING:
            raise ValueError("`when` is for blocking edges; one of kind preferred_order never waits")
        return self


class FanOut(Body):
    """Many children of one member: one for each item, or so many, or one for each item of an upstream's result."""

    items: Annotated[list[Json], Field(min_length=1, max_length=ITEM_LIMIT)] | None = None
    count: Annotated[Number, Field(ge=1, le=ITEM_LIMIT)] | None = None
    items_from: Annotated[str, StringConstraints(max_length=1200), STORABLE] | None = Field(
        default=None, description="`member#/json/pointer`: a list in the result of an upstream."
    )
    max_parallel: Annotated[Number, Field(ge=1, le=ITEM_LIMIT)] | None = None

    @field_validator("items_from")
    @classmethod
    def _a_member_and_a_pointer(cls, given: str | None) -> str | None:
        if given is not None and not _ITEMS_FROM.fullmatch(given):
            raise ValueError("must be member#/json/pointer")
        return given

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if sum(value is not None for value in (self.items, self.count, self.items_from)) != 1:
            raise ValueError("exactly one of `items`, `count` and `items_from` is needed")
        return self

    @property
    def size(self) -> int | None:
        """How many children there are; None while only an upstream's result will tell."""
        return len(self.items) if self.items is not None else self.count

    @property
    def source(self) -> tuple[str, str] | None:
        """The upstream and the pointer into its result, of `items_from`."""
        if self.items_from is None:
            return None
        member, _, pointer = self.items_from.partition("#")
        return member, pointer


class Member(Body):
    """A named part of a run: a task, or a fan-out of one."""

    name: MemberName
    task: TaskSpec
    fan_out: FanOut | None = None
    expected: Span | None = Field(default=None, description="How long it is expected to take, for the critical path.")
    affinity: MemberName | None = Field(
        default=None, description="Run on the node where this upstream ran, if that can be."
    )

    @field_validator("task")
    @classmethod
    def _room_for_what_is_added(cls, task: TaskSpec) -> TaskSpec:
        if task.input is not None and not isinstance(task.input, dict):
            raise ValueError("`input` of a member must be an object: `upstream` and `item` are added to it")
        return task


class RunBreakpoints(Body):
    """Where a run holds until somebody resumes it; `each_step` is after every superstep, or every member if eager."""

    before: Annotated[list[MemberName], Field(max_length=MEMBER_LIMIT)] = []
    after: Annotated[list[MemberName], Field(max_length=MEMBER_LIMIT)] = []
    each_step: Flag = False

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self.each_step or bool(self.before or self.after)


Members = Annotated[list[Member], Field(max_length=MEMBER_LIMIT)]
Edges = Annotated[list[RunEdge], Field(max_length=EDGE_LIMIT)]


class RunSpec(Body):
    """The body of `POST /v1/runs`."""

    name: Name = "run"
    members: Annotated[list[Member], Field(min_length=1, max_length=MEMBER_LIMIT)]
    edges: Edges = []
    mode: RunMode = RunMode.EAGER
    max_parallel: Annotated[Number, Field(ge=1, le=TASK_LIMIT)] | None = None
    on_failure: OnFailure = OnFailure.SKIP_DEPENDENTS
    breakpoints: RunBreakpoints = RunBreakpoints()
    state: dict[Text, Json] = {}
    reducers: dict[Text, Reducer] = {}
    labels: Annotated[dict[Label, LabelValue], Field(max_length=32)] = {}
    priority: Annotated[Number, Field(ge=1, le=5)] = PRIORITY_DEFAULT

    @model_validator(mode="after")
    def _state_of_supersteps(self) -> Self:
        if self.mode is not RunMode.SUPERSTEP and (self.state or self.reducers):
            raise ValueError("`state` and `reducers` are for the mode superstep")
        if (size := size_of(self.state)) > STATE_BYTES:
            raise ValueError(f"`state` has {size:,} bytes; it may have {STATE_BYTES:,}")
        for key, reducer in self.reducers.items():
            types, kind = _REDUCED.get(reducer, ((), ""))
            if types and key in self.state and type(self.state[key]) not in types:
                raise ValueError(f"`state.{key}` must be {kind}: its reducer is {reducer}")
        return self


# What a reducer can add to, when the state begins with something.
_REDUCED: Final[Mapping[Reducer, tuple[tuple[type, ...], str]]] = {
    Reducer.APPEND: ((list,), "a list"),
    Reducer.MERGE: ((dict,), "an object"),
    Reducer.SUM: ((int, float), "a number"),
}


def size_of(state: Mapping[str, Any]) -> int:
    """Return the bytes of a state as JSON."""
    return len(json.dumps(state, ensure_ascii=False, separators=(",", ":")).encode())


class Append(Body):
    """Members and edges that a command adds to a run."""

    members: Members = []
    edges: Edges = []


class RunCommand(Body):
    """What changes a run that is under way: from a member's result at a barrier, or from outside while it is paused."""

    append: Append = Append()
    replace: Annotated[list[MemberName], Field(min_length=1, max_length=MEMBER_LIMIT)] | None = None
    skip: Annotated[list[MemberName], Field(max_length=MEMBER_LIMIT)] = []

    @field_validator("replace", "skip")
    @classmethod
    def _each_once(cls, names: list[str] | None) -> list[str] | None:
        twice = [name for name, count in Counter(names or ()).items() if count > 1]
        if twice:
            raise ValueError(f"named twice: {', '.join(twice[:5])}")
        return names

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        both = set(self.replace or ()) & set(self.skip)
        if both:
            raise ValueError(f"both in `replace` and in `skip`: {', '.join(sorted(both)[:5])}")
        return self
