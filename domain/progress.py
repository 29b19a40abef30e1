"""How far a run is: which members are ready, which cannot run any more, and what the run has come to.

Pure and incremental: an ending costs its member's edges, not the graph. The orchestrator asks, in turns: what do I have
to know of results (`questions`), what is to be done now (`moves`), and is it over (`outcome`).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import Final

from domain.fan import Fan
from domain.lifecycle import MemberStatus, RunStatus, TaskStatus
from domain.moves import Finished, Moves, Part
from domain.outcomes import OF_TASK, aggregate, letters, statuses
from domain.run import Plan, RunState
from domain.run_spec import OnFailure, RunMode
from domain.wiring import CONDITION, PREFERRED, Wiring, holds, why_not

__all__ = [
    "CONDITION",
    "OF_TASK",
    "PREFERRED",
    "Finished",
    "Moves",
    "Part",
    "Progress",
    "aggregate",
    "letters",
    "statuses",
]

M: Final = MemberStatus
# Why a member was skipped that waited when something else failed.
FAIL_FAST: Final = "fail_fast"


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
        self._restore()

    def _restore(self) -> None:
        """Take in what a state says that was made of rows: of a fan-out without children, and of a failure."""
        for member, fan in self.plan.fans.items():
            if self.status[member] is M.IN_PROGRESS and member not in self.children:
                if fan.size is None:
                    self.status[member] = M.WAITING
                else:
                    self.children[member] = [M.WAITING] * fan.size
        self._index()
        if M.FAILED in self.status:
            self._fail_fast()

    def _index(self) -> None:
        """Make what follows from plan and state; done anew when the graph has grown."""
        self._wiring = Wiring(self.plan)
        self.places = self._wiring.places
        self._rank = self._wiring.rank
        self._counts = Counter(self.status)
        self._frontier_left = sum(not self.status[member].ended for member in self.frontier)
        # Heaps by rank: members to start, fan-outs with children to start, members to skip and why.
        self._ready: list[tuple[int, int]] = []
        self._hungry: list[tuple[int, int]] = []
        self._doomed: list[tuple[int, int, str]] = []
        # What is ready for the next superstep.
        self._later: list[int] = []
        self._fans: dict[int, Fan] = {}
        self._closing: list[int] = []
        self._unmet = [0] * len(self.status)
        self._asked: set[int] = set()
        for member, status in enumerate(self.status):
            if status is M.WAITING:
                self._look_at(member)
            elif status is M.IN_PROGRESS and member in self.children:
                self._begin(member)
                self._closing += [member] if self._fans[member].over else []
        plain = sum(s is M.IN_PROGRESS for member, s in enumerate(self.status) if member not in self.plan.fans)
        self.open = plain + sum(fan.open for fan in self._fans.values())

    # --- edges --------------------------------------------------------------------------------------------------

    def _holds(self, number: int) -> bool | None:
        """Whether an edge's upstream has ended as the edge wants it; None while that is open."""
        upstream = self.status[self.plan.edges[number].source]
        either = self._on_failure is OnFailure.CONTINUE
        return holds(self.plan.edges[number].when, upstream, judged=self._judged.get(number), either_will_do=either)

    def _look_at(self, member: int) -> None:
        """Find out how a waiting member stands: its upstreams, counted anew."""
        if self.cancelling:  # a command has added it since
            self._closing.append(member)
            return
        if self.failing and not self._wiring.asks_for_ends(member):
            self._doom(member, FAIL_FAST)
        if member in self.frontier:  # a command may have put it there before its upstreams have ended
            self._is_ready(member)
            return
        self._unmet[member] = len(self._wiring.into[member])
        for number in self._wiring.into[member]:
            if self.status[self.plan.edges[number].source].ended:
                self._settle(number)
        if not self._wiring.into[member]:
            self._is_ready(member)

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
                self._is_ready(target)
        else:
            edge = self.plan.edges[number]
            self._doom(target, why_not(edge.when, self.status[edge.source]))

    def _doom(self, member: int, reason: str) -> None:
        heappush(self._doomed, (self._rank[member], member, reason))

    def _is_ready(self, member: int) -> None:
        if self._superstep and member not in self.frontier:
            self._later.append(member)
        else:
            heappush(self._ready, (self._rank[member], member))

    # --- what has happened --------------------------------------------------------------------------------------

    def ended(self, part: Part, outcome: TaskStatus) -> Finished | None:
        """Take in that a task has ended; returns its member's end if that is one. One that is not open is ignored."""
        if not self.is_open(part):
            return None
        status = OF_TASK[outcome]
        self.open -= 1
        if status is M.FAILED:
            self._fail_fast()
        if part.item is None:
            return self._end(part.member, status)
        fan = self._fans[part.member]
        fan.end(part.item, status)
        self._feed(part.member)
        return self._aggregated(part.member)

    def is_open(self, part: Part) -> bool:
        """Whether this task was started and has not ended."""
        if part.item is None:
            return self.status[part.member] is M.IN_PROGRESS and part.member not in self.plan.fans
        return part.member in self._fans and self._fans[part.member].is_open(part.item)

    def has_ended(self, part: Part) -> bool:
        """Whether this task has ended, or its member has."""
        if part.item is None or self.status[part.member].ended:
            return self.status[part.member].ended
        parts = self.children.get(part.member, [])
        return part.item <= len(parts) and parts[part.item - 1].ended

    def counts_of(self, member: int) -> dict[MemberStatus, int]:
        """How many children of a fan-out are in which status."""
        return dict(Counter(self.children.get(member, ())))

    def _begin(self, member: int) -> None:
        """Take its known children as those of a fan-out that is under way."""
        self._fans[member] = Fan(self.children[member], self.plan.fans[member].max_parallel)
        self._feed(member)

    def _feed(self, member: int) -> None:
        if self._fans[member].hungry:
            heappush(self._hungry, (self._rank[member], member))

    def _aggregated(self, member: int) -> Finished | None:
        if not self._fans[member].over:
            return None
        return self._end(member, aggregate(self.children[member]))

    def _end(self, member: int, status: MemberStatus, reason: str | None = None) -> Finished:
        self._set(member, status)
        self._frontier_left -= member in self.frontier
        for number in self._wiring.out[member]:
            self._settle(number)
        return Finished(member, status, reason)

    def _set(self, member: int, status: MemberStatus) -> None:
        self._counts[self.status[member]] -= 1
        self._counts[status] += 1
        self.status[member] = status

    def judge(self, number: int, *, holds: bool) -> None:
        """Take in whether an edge's condition holds."""
        self._asked.discard(number)
        if number not in self._judged:
            self._judged[number] = holds
            self._settle(number)

    def fanned(self, member: int, size: int) -> Finished | None:
        """Take in how many children a fan-out has; one without any has completed."""
        known = self.children.get(member, [])[:size]
        self.children[member] = known + [M.WAITING] * (size - len(known))
        self._begin(member)
        if self.cancelling or (self.failing and not self._wiring.asks_for_ends(member)):
            self._fans[member].stop()
        return self._aggregated(member)

    def refused(self, member: int) -> Finished:
        """Take in that a fan-out cannot be begun: it has failed."""
        self._fail_fast()
        return self._end(member, M.FAILED)

    def _fail_fast(self) -> None:
        """In that mode, begin nothing more from now on but what is there for the failure of others."""
        if self._on_failure is not OnFailure.FAIL_FAST or self.failing:
            return
        self.failing = True
        self._stop_fans()
        for member, status in enumerate(self.status):
            if status is M.WAITING and not self._wiring.asks_for_ends(member):
                self._doom(member, FAIL_FAST)

    def cancel(self) -> list[Finished]:
        """Give up what has not begun; what is open ends by itself. Returns the members that this ends."""
        self.cancelling = True
        ends = [self._end(m, M.CANCELLED) for m, status in enumerate(self.status) if status is M.WAITING]
        self._stop_fans()
        return ends + self._closed()

    def give_up(self) -> list[Finished]:
        """Skip all that has not begun, because the run itself cannot go on; what is open is to be cancelled."""
        self.failing = True
        ends = [self._end(m, M.SKIPPED, "run_failed") for m, status in enumerate(self.status) if status is M.WAITING]
        self._stop_fans()
        return ends + self._closed()

    def _stop_fans(self) -> None:
        """Start no more children. What ends by that, between two of its children, is closed with the next moves."""
        for member, fan in self._fans.items():
            fan.stop()
            if fan.over and self.status[member] is M.IN_PROGRESS:
                self._closing.append(member)

    def _closed(self) -> list[Finished]:
        """End what is left over: fan-outs that were stopped, and what was added to a run that is being cancelled."""
        closing, self._closing = sorted(set(self._closing)), []
        ends = [self._end(m, M.CANCELLED) for m in closing if self.status[m] is M.WAITING]
        return ends + [end for m in closing if self.status[m] is M.IN_PROGRESS and (end := self._aggregated(m))]

    def skip(self, members: Iterable[int]) -> list[Finished]:
        """Leave waiting members out, because a command says so."""
        return [self._end(m, M.SKIPPED, "command") for m in members if self.status[m] is M.WAITING]

    def grow(self, added: Plan) -> None:
        """Add members and edges; edges count from the first member of all.

        A member of the frontier that has not begun and gets an upstream to wait for leaves the frontier.
        """
        first, known = len(self.plan.names), len(self.plan.edges)
        self.plan.names += added.names
        self.plan.edges += added.edges
        self.plan.fans |= {first + place: fan for place, fan in added.fans.items()}
        self.status += [M.WAITING] * len(added.names)
        for number, edge in enumerate(added.edges, known):
            if edge.when != PREFERRED and self.status[edge.target] is M.WAITING and not self._holds(number):
                self.frontier.discard(edge.target)
        self._index()

    # --- what follows -------------------------------------------------------------------------------------------

    def questions(self) -> Sequence[int]:
        """Return the edges whose condition is to be judged now."""
        self._asked = {n for n in self._asked if self.status[self.plan.edges[n].target] is M.WAITING}
        return sorted(self._asked)

    def moves(self) -> Moves:
        """Return what is to be done now, and take it as done. Call again until there is nothing."""
        moves = Moves(finished=self._closed())
        if self.cancelling:
            return moves
        while self._doomed:
            _, member, reason = heappop(self._doomed)
            forced = member in self.frontier and reason != FAIL_FAST
            if self.status[member] is M.WAITING and not forced:
                moves.finished.append(self._end(member, M.SKIPPED, reason))
        self._start(moves)
        return moves

    def _start(self, moves: Moves) -> None:
        """Start what is ready and has room, in order; children of a fan-out that was begun come first."""
        while self._hungry and self._has_room():
            _, member = self._hungry[0]
            if self._fans[member].hungry:
                moves.starts.append(Part(member, self._fans[member].start()))
                self.open += 1
            else:
                heappop(self._hungry)
        while self._ready and self._has_room():
            _, member = heappop(self._ready)
            if self.status[member] is not M.WAITING:
                continue
            self._set(member, M.IN_PROGRESS)
            if member in self.plan.fans:
                moves.fans.append(member)
            else:
                moves.starts.append(Part(member))
                self.open += 1

    def _has_room(self) -> bool:
        return self._max_parallel is None or self.open < self._max_parallel

    @property
    def startable(self) -> list[int]:
        """The members that would begin now, if there were room for all, in order."""
        return [member for _, member in sorted(set(self._ready)) if self.status[member] is M.WAITING]

    # --- supersteps ---------------------------------------------------------------------------------------------

    @property
    def at_barrier(self) -> bool:
        """Whether every member of the frontier has ended."""
        return self._frontier_left == 0

    @property
    def frontier_begun(self) -> bool:
        """Whether any of the frontier has begun."""
        return any(self.status[member] is not M.WAITING for member in self.frontier)

    def next_frontier(self, replaced: Iterable[int] | None = None) -> list[int]:
        """Begin the next superstep: what is ready, or exactly what a command says; returns it in order."""
        left, self.frontier, self._ready = self.frontier, set(), []
        for member in sorted(left):  # one that a command had put there may have to wait after all
            if self.status[member] is M.WAITING:
                self._look_at(member)
        ready = {member for member in self._later if self.status[member] is M.WAITING}
        wanted = ready if replaced is None else set(replaced)
        self.frontier = {member for member in wanted if self.status[member] is M.WAITING}
        self._later = sorted(ready - self.frontier)
        self._ready = sorted((self._rank[member], member) for member in self.frontier)
        self._frontier_left = len(self.frontier)
        return [member for _, member in self._ready]

    # --- the whole ----------------------------------------------------------------------------------------------

    @property
    def counts(self) -> dict[MemberStatus, int]:
        """How many members are in which status."""
        return dict(+self._counts)

    @property
    def done(self) -> bool:
        """Whether every member has ended."""
        return self._counts[M.WAITING] == self._counts[M.IN_PROGRESS] == 0

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
