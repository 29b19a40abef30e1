"""A run without tasks: random graphs, a driver of Progress that checks each move, and what it must come to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from hypothesis import strategies as st

from domain.lifecycle import MemberStatus, TaskStatus
from domain.progress import CONDITION, PREFERRED, Finished, Moves, Part, Progress
from domain.run import EdgePlan, FanPlan, Plan, RunState
from domain.run_spec import OnFailure, Outcome, RunMode

M = MemberStatus
WHENS = ("", *Outcome, CONDITION, PREFERRED)
EXEMPT = (Outcome.FAILED, Outcome.FINISHED)
OUTCOMES = (TaskStatus.COMPLETED, TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED)


@dataclass
class Case:
    """A graph, how it is carried out, and what every question will be answered."""

    plan: Plan
    mode: RunMode = RunMode.EAGER
    on_failure: OnFailure = OnFailure.SKIP_DEPENDENTS
    max_parallel: int | None = None
    # Sizes that an upstream's result tells; None: it has no list.
    sizes: Mapping[int, int | None] = field(default_factory=dict)

    def progress(self, state: RunState | None = None) -> Progress:
        """Return its progress, from the beginning or from what was carried on."""
        plan = self.plan.model_copy(deep=True)
        return Progress(
            plan, state or RunState(), mode=self.mode, on_failure=self.on_failure, max_parallel=self.max_parallel
        )


def plan(count: int, *edges: tuple[int, int] | tuple[int, int, str], **fans: FanPlan) -> Plan:
    """Return the plan of so many members, of edges as `(source, target, when)` and of fan-outs as `m1=FanPlan(…)`."""
    return Plan(
        names=[f"m{place}" for place in range(count)],
        edges=[EdgePlan(source=edge[0], target=edge[1], when=(*edge, "")[2]) for edge in edges],
        fans={int(name[1:]): fan for name, fan in fans.items()},
    )


@st.composite
def cases(draw: st.DrawFn, *, most: int = 9) -> Case:
    """Give small runs of every kind; a member's place says nothing of its place in the order."""
    order = draw(st.permutations(range(draw(st.integers(1, most)))))
    pairs = [(a, b) for place, a in enumerate(order) for b in order[place + 1 :]]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=2 * most)) if pairs else []
    edges = [EdgePlan(source=a, target=b, when=draw(st.sampled_from(WHENS))) for a, b in chosen]
    limits = st.none() | st.integers(1, 3)
    fans, sizes = {}, {}
    for member in draw(st.lists(st.sampled_from(order), unique=True, max_size=4)):
        size = draw(st.none() | st.integers(1, 5))
        fans[member] = FanPlan(size=size, max_parallel=draw(limits))
        sizes[member] = draw(st.none() | st.integers(0, 5)) if size is None else size
    return Case(
        plan=Plan(names=[f"m{place}" for place in range(len(order))], edges=edges, fans=fans),
        mode=draw(st.sampled_from(RunMode)),
        on_failure=draw(st.sampled_from(OnFailure)),
        max_parallel=draw(limits),
        sizes=sizes,
    )


class Drive:
    """Carries a case through, with the dice for what is left open, and checks every move on the way."""

    def __init__(self, case: Case, dice: Random) -> None:
        self.case, self.dice = case, dice
        self.progress = case.progress()
        self.plan = self.progress.plan
        self.log: list[object] = []
        self.open: list[Part] = []
        self.fed: dict[Part, MemberStatus] = {}
        self.holds: dict[int, bool] = {}
        self.ends: dict[int, Finished] = {}
        self.sizes: dict[int, int] = {}
        self.refused: set[int] = set()
        self.begun: set[int] = set()
        # What had begun, and which fan-outs were told their size, when something failed for the first time.
        self.at_failure: tuple[set[int], set[int]] | None = None
        self.forced: set[int] = set()

    # --- what must be ------------------------------------------------------------------------------------------

    def into(self, member: int) -> list[tuple[int, EdgePlan]]:
        """Return the blocking edges that lead to it, with their numbers."""
        return [(n, e) for n, e in enumerate(self.plan.edges) if e.target == member and e.when != PREFERRED]

    def edge_holds(self, number: int, upstream: MemberStatus) -> bool:
        """Whether an edge holds, once its upstream has ended like that: the rules as the documentation has them."""
        when = self.plan.edges[number].when
        if when == CONDITION:
            return upstream is M.COMPLETED and self.holds.get(number, True)
        if when == "" and self.case.on_failure is OnFailure.CONTINUE:
            return upstream in (M.COMPLETED, M.FAILED)
        return when == Outcome.FINISHED or upstream is (M.FAILED if when == Outcome.FAILED else M.COMPLETED)

    def exempt(self, member: int) -> bool:
        """Whether it is judged as ever when the run fails fast."""
        return any(edge.when in EXEMPT for _, edge in self.into(member))

    def is_ready(self, member: int) -> bool:
        """Whether a member waits for nothing but room."""
        return self.progress.status[member] is M.WAITING and self.may_begin(member)

    def may_begin(self, member: int) -> bool:
        """Whether a member may begin now, looked at from scratch."""
        if self.case.mode is RunMode.SUPERSTEP and member not in self.progress.frontier:
            return False
        if self.progress.failing and not self.exempt(member):
            return False
        if member in self.forced:
            return True
        ends = {edge.source: self.ends.get(edge.source) for _, edge in self.into(member)}
        return all(
            (end := ends[edge.source]) is not None
            and (edge.when != CONDITION or end.outcome is not M.COMPLETED or number in self.holds)
            and self.edge_holds(number, end.outcome)
            for number, edge in self.into(member)
        )

    def expected(self) -> list[MemberStatus]:
        """Return what every member must have come to, from what tasks came to, one after the other."""
        status: dict[int, MemberStatus] = {}
        while len(status) < len(self.plan.names):
            for member in range(len(self.plan.names)):
                edges = self.into(member)
                if member not in status and all(edge.source in status for _, edge in edges):
                    stands = all(self.edge_holds(number, status[edge.source]) for number, edge in edges)
                    status[member] = self._comes_to(member, stands=stands)
        return [status[member] for member in range(len(self.plan.names))]

    def _comes_to(self, member: int, *, stands: bool) -> MemberStatus:
        before, told = self.at_failure or (set(), set())
        cut_short = self.at_failure is not None and member in before and (member in told or not self.exempt(member))
        if not stands or (self.at_failure and member not in before and not self.exempt(member)):
            return M.SKIPPED
        if member in self.refused:
            return M.FAILED
        if member not in self.plan.fans:
            return self.fed[Part(member)]
        parts = [Part(member, item) for item in range(1, self.sizes[member] + 1)]
        came = [self.fed.get(part, M.CANCELLED) if cut_short else self.fed[part] for part in parts]
        return next((worst for worst in (M.FAILED, M.CANCELLED) if worst in came), M.COMPLETED)

    # --- turns -------------------------------------------------------------------------------------------------

    def carry(self) -> None:
        """Go on from what is carried, as JSON, as after continue-as-new."""
        state = RunState()
        self.progress.carried(state)
        again = RunState.model_validate_json(state.model_dump_json())
        case = replace(self.case, plan=Plan.model_validate_json(self.plan.model_dump_json()))
        self.progress = case.progress(again)
        self.plan = self.progress.plan

    def take(self, ends: Sequence[Finished | None]) -> None:
        """Note ends of members: each has one, and only one."""
        for end in ends:
            if end is not None:
                assert end.member not in self.ends
                assert self.progress.status[end.member] is end.outcome
                assert (end.reason is None) is (end.outcome is not M.SKIPPED)
                assert end.member not in self.forced or end.reason not in ("condition", "upstream")
                self.ends[end.member] = end
                self.log.append(("end", end.member, end.outcome, end.reason))

    def _note_failure(self) -> None:
        if self.case.on_failure is OnFailure.FAIL_FAST and self.at_failure is None:
            self.at_failure = (set(self.begun), set(self.sizes))

    def move(self) -> bool:
        """Answer questions and make moves; returns whether there was anything."""
        for number in self.progress.questions():
            assert self.progress.status[self.plan.edges[number].source] is M.COMPLETED
            self.holds[number] = self.dice.random() < 0.6
            self.progress.judge(number, holds=self.holds[number])
        moves = self.progress.moves()
        self.take(moves.finished)
        self._check_starts(moves)
        for member in moves.fans:
            self._fan(member)
        return bool(moves)

    def _check_starts(self, moves: Moves) -> None:
        begin = [*moves.fans, *(part.member for part in moves.starts if part.item is None)]
        assert all(map(self.may_begin, begin)), "started before its upstreams, or against them"
        self.begun |= set(begin)
        self.open += moves.starts
        assert len(set(self.open) | set(self.fed)) == len(self.open) + len(self.fed), "started twice"
        assert self.case.max_parallel is None or len(self.open) <= self.case.max_parallel
        assert self.progress.open == len(self.open)
        for member, fan in self.plan.fans.items():
            assert sum(part.member == member for part in self.open) <= (fan.max_parallel or len(self.open))
        order = [part.member for part in moves.starts if part.item is None]
        for edge in self.plan.edges:
            if edge.when == PREFERRED and edge.target in begin:
                assert not self.is_ready(edge.source), "the preferred one was left behind"
                if edge.source in order and edge.target in order:
                    assert order.index(edge.source) < order.index(edge.target)
        for part in moves.starts:
            self.log.append(("start", part.member, part.item))

    def _fan(self, member: int) -> None:
        size = self.case.sizes.get(member, self.plan.fans[member].size)
        if size is None:
            self.refused.add(member)
            self._note_failure()
            self.take([self.progress.refused(member)])
        else:
            self.sizes[member] = size
            self.log.append(("fan", member, size))
            self.take([self.progress.fanned(member, size)])

    def end(self, part: Part, outcome: TaskStatus) -> None:
        """Let an open task end."""
        self.open.remove(part)
        self.fed[part] = MemberStatus(outcome)
        if outcome is TaskStatus.FAILED:
            self._note_failure()
        self.take([self.progress.ended(part, outcome)])

    def nonsense(self) -> None:
        """Tell an end that was told before, or of a task that nobody started: nothing comes of it."""
        known = [*self.fed, Part(0, 0), Part(0, 10**6), *(Part(member) for member in self.plan.fans)]
        known += [Part(m) for m, status in enumerate(self.progress.status) if status is M.WAITING]
        before, after = RunState(), RunState()
        self.progress.carried(before)
        assert self.progress.ended(self.dice.choice(known), self.dice.choice(OUTCOMES)) is None
        self.progress.carried(after)
        assert before == after

    # --- commands ----------------------------------------------------------------------------------------------

    def waiting(self) -> list[int]:
        """Return the members that have not begun."""
        return [member for member, status in enumerate(self.progress.status) if status is M.WAITING]

    def some_of(self, members: Sequence[int]) -> list[int]:
        """Return a few of these, or none."""
        return self.dice.sample(members, min(len(members), self.dice.choice((0, 1, 1, 2))))

    def grow(self) -> None:
        """Append members, and edges to them and from them to what waits: no cycle, because they only lead onward."""
        dice, first = self.dice, len(self.plan.names)
        names = [f"n{first + place}" for place in range(dice.choice((1, 1, 2)))]
        added = Plan(names=names, fans={0: FanPlan(size=2, max_parallel=1)} if dice.random() < 0.3 else {})
        for new in range(first, first + len(names)):
            ends = [(member, new) for member in self.some_of(range(new))]
            # What is below nobody yet may come after the new one.
            lowest = [m for m in self.waiting() if not any(edge.source == m for edge in self.plan.edges)]
            ends += [(new, member) for member in self.some_of(lowest) if (member, new) not in ends]
            added.edges += [EdgePlan(source=a, target=b, when=dice.choice(WHENS)) for a, b in ends]
        if not _is_cyclic(len(self.plan.names) + len(names), [*self.plan.edges, *added.edges]):
            self.progress.grow(added)
            self.plan = self.progress.plan
            self.forced &= self.progress.frontier
            self.log.append(("grow", *names))

    def skip(self) -> None:
        """Leave out some of what waits."""
        self.take(self.progress.skip(self.some_of(self.waiting())))

    def replace(self) -> None:
        """Have some of what waits as the next frontier, before anything of it has begun, or at the barrier."""
        if self.case.mode is RunMode.SUPERSTEP and (not self.progress.frontier_begun or self.progress.at_barrier):
            wanted = self.some_of(self.waiting())
            if wanted:
                self.forced = set(self.progress.next_frontier(wanted))
                assert self.forced == set(wanted)

    def cancel(self) -> None:
        """Give up what has not begun."""
        self.take(self.progress.cancel())

    def give_up(self) -> None:
        """End what has not begun, because the run cannot go on; what is open ends by itself."""
        self.take(self.progress.give_up())

    def has_room(self) -> bool:
        """Whether one more task may start."""
        return self.case.max_parallel is None or len(self.open) < self.case.max_parallel

    def check_nobody_waits_for_nothing(self) -> None:
        """Nothing that could begin has not, once there are no moves left and there is room."""
        if not self.has_room() or self.progress.cancelling:
            return
        assert not [member for member in range(len(self.plan.names)) if self.is_ready(member)]
        for member, parts in self.progress.children.items():
            running = sum(part is M.IN_PROGRESS for part in parts)
            limit = self.plan.fans[member].max_parallel or len(parts)
            assert self.progress.status[member].ended or M.WAITING not in parts or running >= limit

    def step(self) -> None:
        """Begin the next superstep."""
        self.forced = set()
        frontier = self.progress.next_frontier()
        assert frontier, "nothing is ready, nothing is open, and not everything has ended"
        assert set(frontier) == self.progress.frontier
        assert not self.progress.at_barrier
        self.log.append(("frontier", *frontier))

    def run(self, between: Callable[[], None] = lambda: None) -> None:
        """Go on until every member has ended; `between` is called between any two turns."""
        while not self.progress.done:
            between()
            if self.move():
                continue
            self.check_nobody_waits_for_nothing()
            if self.open:
                self.end(self.dice.choice(self.open), self.dice.choice(OUTCOMES))
            elif not self.progress.done:
                assert self.case.mode is RunMode.SUPERSTEP, "nothing is open, and nothing goes on"
                assert self.progress.at_barrier
                self.step()
        assert len(self.ends) == len(self.plan.names)
        assert not self.open
        assert not self.move()


def _is_cyclic(count: int, edges: Sequence[EdgePlan]) -> bool:
    left = set(range(count))
    while free := {m for m in left if not any(edge.target == m and edge.source in left for edge in edges)}:
        left -= free
    return bool(left)


def through(
    case: Case,
    ends: Mapping[Part, TaskStatus] | None = None,
    *,
    holds: Mapping[int, bool] | None = None,
    progress: Progress | None = None,
) -> dict[int, Finished]:
    """Carry a run through, the task that was started first ending first, and return the ends of its members.

    A task that `ends` does not name completes.
    """
    progress = progress or case.progress()
    found: list[Finished | None] = []
    started: list[Part] = []
    while not progress.done:
        for number in progress.questions():
            progress.judge(number, holds=(holds or {})[number])
        moves = progress.moves()
        found += moves.finished
        started += moves.starts
        for member in moves.fans:
            size = case.sizes.get(member, case.plan.fans[member].size)
            found.append(progress.refused(member) if size is None else progress.fanned(member, size))
        if not moves and started:
            part = started.pop(0)
            found.append(progress.ended(part, (ends or {}).get(part, TaskStatus.COMPLETED)))
        elif not moves:
            assert progress.next_frontier(), "nothing goes on"
    return {end.member: end for end in found if end is not None}
