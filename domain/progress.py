"""How far a run is: which members are ready, which cannot run any more, and what the run has come to.

Pure and incremental: an ending costs its member's edges, not the graph. The orchestrator asks, in turns: what do I have
to know of results (`questions`), what is to be done now (`moves`), and is it over (`outcome`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Final

from domain.graph import Edge, EdgeKind, Graph
from domain.lifecycle import MemberStatus, RunStatus, TaskStatus
from domain.run import Plan, RunState
from domain.run_spec import OnFailure, Outcome, RunMode

M = MemberStatus
CONDITION: Final = "?"
PREFERRED: Final = "~"

# As letters a run of 10,000 members is 10 kB.
_LETTERS: Final[Mapping[MemberStatus, str]] = {
    M.WAITING: ".",
    M.IN_PROGRESS: "i",
    M.COMPLETED: "c",
    M.FAILED: "f",
    M.CANCELLED: "x",
    M.SKIPPED: "s",
}
_STATUSES: Final = {letter: status for status, letter in _LETTERS.items()}
OF_TASK: Final[Mapping[TaskStatus, MemberStatus]] = {
    TaskStatus.COMPLETED: M.COMPLETED,
    TaskStatus.FAILED: M.FAILED,
    TaskStatus.CANCELLED: M.CANCELLED,
}


def letters(statuses: Iterable[MemberStatus]) -> str:
    """Return statuses as they are carried."""
    return "".join(_LETTERS[status] for status in statuses)


def statuses(text: str) -> list[MemberStatus]:
    """Return carried statuses."""
    return [_STATUSES[letter] for letter in text]


def aggregate(parts: Iterable[MemberStatus]) -> MemberStatus:
    """Return what parts that have all ended come to: any failed, else any cancelled, else completed."""
    seen = set(parts)
    for status in (M.FAILED, M.CANCELLED):
        if status in seen:
            return status
    return M.COMPLETED


@dataclass(frozen=True, slots=True)
class Part:
    """A task of the run: of a member, or of one child of a fan-out, counted from 1."""

    member: int
    item: int | None = None


@dataclass(slots=True)
class Finished:
    """A member has ended; `reason` says why it was skipped."""

    member: int
    outcome: MemberStatus
    reason: str | None = None


@dataclass(slots=True)
class Moves:
    """What is to be done now. Members that `fan` out are begun: their children follow among the next starts."""

    starts: list[Part] = field(default_factory=list)
    fans: list[int] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.starts or self.fans or self.finished)


class Progress:
    """The state of every member, and what follows from it. Members and edges are numbers: their places in the plan."""

    def __init__(
        self,
        plan: Plan,
        state: RunState,
        *,
        mode: RunMode = RunMode.EAGER,
        on_failure: OnFailure = OnFailure.SKIP_DEPENDENTS,
        max_parallel: int | None = None,
    ) -> None:
        self.plan = plan
        self._superstep = mode is RunMode.SUPERSTEP
        self._on_failure = on_failure
        self._max_parallel = max_parallel
        self._judged = state.judged
        self.failing = state.failing
        self.cancelling = state.cancelling
        self.status = statuses(state.members) + [M.WAITING] * (len(plan.names) - len(state.members))
        self.children = {member: statuses(text) for member, text in state.children.items()}
        self.frontier = set(state.frontier)
        self._index()

    def _index(self) -> None:
        """Make what follows from plan and state; done anew when the graph has grown."""
        plan, count = self.plan, len(self.plan.names)
        self.places = {name: place for place, name in enumerate(plan.names)}
        kinds = {True: EdgeKind.PREFERRED_ORDER, False: EdgeKind.BLOCKING}
        edges = [Edge(plan.names[e.source], plan.names[e.target], kinds[e.when == PREFERRED]) for e in plan.edges]
        order = Graph.of(plan.names, edges).topological_order()
        self._rank = [0] * count
        for rank, name in enumerate(order):
            self._rank[self.places[name]] = rank
        self._out: list[list[int]] = [[] for _ in range(count)]
        self._in: list[list[int]] = [[] for _ in range(count)]
        for number, edge in enumerate(plan.edges):
            if edge.when != PREFERRED:
                self._out[edge.source].append(number)
                self._in[edge.target].append(number)
        self._unmet = [0] * count
        self._ready: list[tuple[int, int]] = []
        self._doomed: list[tuple[int, str]] = []
        self._asked: set[int] = set()
        self._begun = {member for member in self.children if self.status[member] is M.IN_PROGRESS}
        self.open = self._count_open()
        for member in range(count):
            if self.status[member] is M.WAITING:
                self._look_at(member)
        heapify(self._ready)

    def _count_open(self) -> int:
        plain = sum(
            status is M.IN_PROGRESS for member, status in enumerate(self.status) if member not in self.plan.fans
        )
        return plain + sum(part is M.IN_PROGRESS for parts in self.children.values() for part in parts)

    # --- edges --------------------------------------------------------------------------------------------------

    def _holds(self, number: int) -> bool | None:
        """Whether an edge's upstream has ended as the edge wants it; None while that is open."""
        edge = self.plan.edges[number]
        upstream = self.status[edge.source]
        if not upstream.ended:
            return None
        match edge.when:
            case "":
                return upstream is M.COMPLETED or (self._on_failure is OnFailure.CONTINUE and upstream is M.FAILED)
            case Outcome.COMPLETED:
                return upstream is M.COMPLETED
            case Outcome.FAILED:
                return upstream is M.FAILED
            case Outcome.FINISHED:
                return True
        return self._judged.get(number) if upstream is M.COMPLETED else False

    def _look_at(self, member: int) -> None:
        """Find out how a waiting member stands: its upstreams, counted anew."""
        unmet = 0
        for number in self._in[member]:
            holds = self._holds(number)
            if holds is None:
                unmet += 1
                if self.status[self.plan.edges[number].source].ended:
                    self._asked.add(number)
            elif not holds:
                self._doomed.append((member, self._why(number)))
        self._unmet[member] = unmet
        if unmet == 0:
            self._ready.append((self._rank[member], member))

    def _why(self, number: int) -> str:
        edge = self.plan.edges[number]
        wants_an_end = edge.when in (Outcome.FAILED, CONDITION) and self.status[edge.source] is M.COMPLETED
        return "condition" if wants_an_end else "upstream"

    def _settle(self, number: int) -> None:
        """Take in that an edge holds, or does not."""
        target, holds = self.plan.edges[number].target, self._holds(number)
        if self.status[target] is not M.WAITING:
            return
        if holds is None:
            self._asked.add(number)
        elif holds:
            self._unmet[target] -= 1
            if self._unmet[target] == 0:
                heappush(self._ready, (self._rank[target], target))
        else:
            self._doomed.append((target, self._why(number)))

    # --- what has happened --------------------------------------------------------------------------------------

    def ended(self, part: Part, outcome: TaskStatus) -> Finished | None:
        """Take in that a task has ended; returns its member's end if that is one. One that is not open is ignored."""
        status = OF_TASK[outcome]
        if not self.is_open(part):
            return None
        self.open -= 1
        if status is M.FAILED and self._on_failure is OnFailure.FAIL_FAST:
            self.failing = True
        if part.item is None:
            return self._end(part.member, status)
        self.children[part.member][part.item - 1] = status
        return self._aggregated(part.member)

    def is_open(self, part: Part) -> bool:
        """Whether this task was started and has not ended."""
        if part.item is None:
            return self.status[part.member] is M.IN_PROGRESS and part.member not in self.plan.fans
        parts = self.children.get(part.member, [])
        return part.item <= len(parts) and parts[part.item - 1] is M.IN_PROGRESS

    def has_ended(self, part: Part) -> bool:
        """Whether this task has ended, or its member has."""
        if part.item is None or self.status[part.member].ended:
            return self.status[part.member].ended
        parts = self.children.get(part.member, [])
        return part.item <= len(parts) and parts[part.item - 1].ended

    def counts_of(self, member: int) -> dict[MemberStatus, int]:
        """How many children of a fan-out are in which status."""
        return dict(Counter(self.children.get(member, ())))

    def _aggregated(self, member: int) -> Finished | None:
        parts = self.children[member]
        stopped = self.failing or self.cancelling
        if any(part is M.IN_PROGRESS or (part is M.WAITING and not stopped) for part in parts):
            return None
        left = M.CANCELLED if self.cancelling else M.SKIPPED
        self.children[member] = parts = [left if part is M.WAITING else part for part in parts]
        self._begun.discard(member)
        return self._end(member, aggregate(parts))

    def _end(self, member: int, status: MemberStatus, reason: str | None = None) -> Finished:
        self.status[member] = status
        for number in self._out[member]:
            self._settle(number)
        return Finished(member, status, reason)

    def judge(self, number: int, *, holds: bool) -> None:
        """Take in whether an edge's condition holds."""
        self._asked.discard(number)
        if number not in self._judged:
            self._judged[number] = holds
            self._settle(number)

    def fanned(self, member: int, size: int) -> Finished | None:
        """Take in how many children a fan-out has; one without any has completed."""
        known = self.children.get(member, [])
        self.children[member] = (known + [M.WAITING] * (size - len(known)))[:size] if size else []
        self._begun.add(member)
        return self._aggregated(member) if all(part.ended for part in self.children[member]) else None

    def refused(self, member: int) -> Finished:
        """Take in that a fan-out cannot be begun: it has failed."""
        self._begun.discard(member)
        self.failing = self.failing or self._on_failure is OnFailure.FAIL_FAST
        return self._end(member, M.FAILED)

    def cancel(self) -> list[Finished]:
        """Give up what has not begun; what is open ends by itself. Returns the members that this ends."""
        self.cancelling = True
        ends = [self._end(m, M.CANCELLED) for m, status in enumerate(self.status) if status is M.WAITING]
        return ends + self._stopped()

    def _stopped(self) -> list[Finished]:
        """Return the fan-outs that have ended because nothing more of them is started."""
        return [end for member in sorted(self._begun) if (end := self._aggregated(member)) is not None]

    @property
    def startable(self) -> list[int]:
        """The members that would begin now, if there were room for all, in order."""
        ready = {member for _, member in self._ready if self.status[member] is M.WAITING}
        return sorted(ready & self.frontier if self._superstep else ready, key=self._rank.__getitem__)

    def give_up(self) -> list[Finished]:
        """Skip all that has not begun, because the run itself cannot go on; what is open is to be cancelled."""
        self.failing = True
        ends = [self._end(m, M.SKIPPED, "run_failed") for m, status in enumerate(self.status) if status is M.WAITING]
        return ends + self._stopped()

    def skip(self, members: Iterable[int]) -> list[Finished]:
        """Leave waiting members out, because a command says so."""
        return [self._end(m, M.SKIPPED, "command") for m in members if self.status[m] is M.WAITING]

    def grow(self, added: Plan) -> None:
        """Add members and edges; edges count from the first member of all."""
        first = len(self.plan.names)
        self.plan.names += added.names
        self.plan.edges += added.edges
        self.plan.fans |= {first + place: fan for place, fan in added.fans.items()}
        self.status += [M.WAITING] * len(added.names)
        self._index()

    # --- what follows -------------------------------------------------------------------------------------------

    def questions(self) -> Sequence[int]:
        """Return the edges whose condition is to be judged now."""
        return sorted(self._asked)

    def moves(self) -> Moves:
        """Return what is to be done now, and take it as done. Call again until there is nothing."""
        moves = Moves()
        if self.cancelling:
            return moves
        if self.failing:
            moves.finished += self._fail_fast() + self._stopped()
        while self._doomed:
            member, reason = self._doomed.pop(0)
            if self.status[member] is M.WAITING and member not in self.frontier:
                moves.finished.append(self._end(member, M.SKIPPED, reason))
        self._start(moves)
        return moves

    def _fail_fast(self) -> list[Finished]:
        """Skip what has not begun, but for members that ask for a failure or for any end."""
        asks = (Outcome.FAILED, Outcome.FINISHED)
        return [
            self._end(member, M.SKIPPED, "fail_fast")
            for member, status in enumerate(self.status)
            if status is M.WAITING and not any(self.plan.edges[number].when in asks for number in self._in[member])
        ]

    def _start(self, moves: Moves) -> None:
        """Start what is ready and has room, in order; children of a fan-out that was begun come first."""
        for member in sorted(self._begun, key=self._rank.__getitem__):
            self._start_children(member, moves)
        held: list[tuple[int, int]] = []
        while self._ready and self._has_room():
            rank, member = heappop(self._ready)
            if self.status[member] is not M.WAITING:
                continue
            if self._superstep and member not in self.frontier:
                held.append((rank, member))
                continue
            self.status[member] = M.IN_PROGRESS
            if member in self.plan.fans:
                moves.fans.append(member)
            else:
                moves.starts.append(Part(member))
                self.open += 1
        for each in held:
            heappush(self._ready, each)

    def _start_children(self, member: int, moves: Moves) -> None:
        if self.failing:
            return
        parts, fan = self.children[member], self.plan.fans[member]
        running = sum(part is M.IN_PROGRESS for part in parts)
        for place, part in enumerate(parts):
            if not self._has_room() or running >= (fan.max_parallel or len(parts)):
                return
            if part is M.WAITING:
                parts[place] = M.IN_PROGRESS
                moves.starts.append(Part(member, place + 1))
                running += 1
                self.open += 1

    def _has_room(self) -> bool:
        return self._max_parallel is None or self.open < self._max_parallel

    # --- supersteps ---------------------------------------------------------------------------------------------

    @property
    def at_barrier(self) -> bool:
        """Whether every member of the frontier has ended."""
        return all(self.status[member].ended for member in self.frontier)

    @property
    def frontier_begun(self) -> bool:
        """Whether any of the frontier has begun."""
        return any(self.status[member] is not M.WAITING for member in self.frontier)

    def next_frontier(self, replaced: Iterable[int] | None = None) -> list[int]:
        """Begin the next superstep: what is ready, or exactly what a command says; returns it in order."""
        if replaced is not None:
            self.frontier = {member for member in replaced if self.status[member] is M.WAITING}
            ready = {member for _, member in self._ready}
            for member in self.frontier - ready:
                heappush(self._ready, (self._rank[member], member))
        else:
            self.frontier = {member for _, member in self._ready if self.status[member] is M.WAITING}
        return sorted(self.frontier, key=self._rank.__getitem__)

    # --- the whole ----------------------------------------------------------------------------------------------

    @property
    def counts(self) -> dict[MemberStatus, int]:
        """How many members are in which status."""
        return dict(Counter(self.status))

    @property
    def done(self) -> bool:
        """Whether every member has ended."""
        return all(status.ended for status in self.status)

    @property
    def outcome(self) -> RunStatus:
        """What the run has come to, once it is done."""
        return RunStatus(aggregate(self.status))

    def carried(self, state: RunState) -> None:
        """Write all of this into the state that is carried on."""
        state.members = letters(self.status)
        state.children = {member: letters(parts) for member, parts in self.children.items()}
        state.judged = self._judged
        state.frontier = sorted(self.frontier)
        state.failing, state.cancelling = self.failing, self.cancelling
