"""The report of a campaign: what each seed did, and what that says of each invariant, fault and failpoint."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from domain.lifecycle import TERMINAL
from tests.faults.checker import INVARIANTS, check
from tests.faults.points import Action, points
from tests.faults.snapshot import Snapshot
from tests.faults.storm import STRIKES

FILE: Final = Path(__file__).parents[2] / "benchmarks" / "results" / "faults.json"
ENOUGH: Final = 20
DRILL: Final = "drill"
# In whose module each invariant has the broken systems on which it fails.
VARIANTS: Final = "tests/faults/test_variants.py"


def load(file: Path = FILE) -> dict[str, Any]:
    """Return the runs so far, by seed."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["runs"] if file.exists() else {}
    return found


def struck(runs: Mapping[str, Any]) -> Counter[str]:
    """Return how often each failpoint struck in all runs."""
    total: Counter[str] = Counter()
    for run in runs.values():
        for point, actions in run["failpoints"].items():
            total[point] += sum(actions.values())
    return total


def lacking(runs: Mapping[str, Any]) -> list[str]:
    """Return the failpoints that have struck too seldom in all runs together."""
    hits = struck(runs)
    return [point for point in points() if hits[point] < ENOUGH]


def run_of(snapshot: Snapshot, struck: Mapping[tuple[str, Action], int], complaints: Sequence[str]) -> dict[str, Any]:
    """Return what every kind of run says of itself: what was there in the end, what struck, what was violated."""
    hits: dict[str, dict[str, int]] = {}
    for (point, action), count in sorted(struck.items()):
        hits.setdefault(point, {})[Action(action).value] = count
    return {
        "tasks": len(snapshot.tasks),
        "statuses": dict(Counter(str(row["status"]) for row in snapshot.tasks.values())),
        "attempts": sum(row["attempt"] for row in snapshot.tasks.values()),
        "events": sum(len(log) for log in snapshot.logs.values()),
        "callbacks": dict(Counter(str(told.status) for told in snapshot.told)),
        "readers": len(snapshot.reads),
        "failpoints": hits,
        "complaints": dict(Counter(complaint.partition(":")[0][:60] for complaint in complaints)),
        "unfinished": [row["id"] for row in snapshot.tasks.values() if row["status"] not in TERMINAL],
        "violations": {name: found for name, found in check(snapshot).items() if found},
    }


def write(runs: Mapping[str, Any], file: Path = FILE) -> dict[str, Any]:
    """Write the report that these runs add up to, and return it."""
    report = summary(runs)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def summary(runs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole report: totals, one object per invariant, per fault and per failpoint, and the runs."""
    seeds = sorted(runs)
    labs = {name: run for name, run in runs.items() if not name.startswith(DRILL)}
    totals = {
        "seeds": len(labs),
        "tasks": sum(run["tasks"] for run in runs.values()),
        "seeds_with_violations": [name for name in seeds if _violated(runs[name])],
    }
    return {
        "totals": totals,
        "invariants": [_invariant(name, runs) for name in INVARIANTS],
        "faults": [_fault(name, labs) for name in STRIKES],
        "failpoints": [_failpoint(point, runs) for point in points()],
        "runs": {name: runs[name] for name in seeds},
    }


def _violated(run: Mapping[str, Any]) -> bool:
    return any(run["violations"].values())


def _invariant(name: str, runs: Mapping[str, Any]) -> dict[str, Any]:
    violated = [seed for seed, run in runs.items() if run["violations"].get(name)]
    hits = sum(1 for _ in runs)
    verdict = "violated" if violated else "holds" if hits else "not checked"
    return {"name": name, "checked_in": hits, "violated_in": violated, "fails_on": VARIANTS, "verdict": verdict}


def _fault(name: str, runs: Mapping[str, Any]) -> dict[str, Any]:
    hits = {seed: run["faults"].get(name, 0) for seed, run in runs.items()}
    return _verdict({"name": name, "hits": sum(hits.values())}, [seed for seed in hits if hits[seed]], runs, enough=1)


def _failpoint(point: str, runs: Mapping[str, Any]) -> dict[str, Any]:
    actions: Counter[str] = Counter()
    seeds = []
    for seed, run in runs.items():
        if point in run["failpoints"]:
            actions.update(run["failpoints"][point])
            seeds.append(seed)
    return _verdict({"name": point, "hits": sum(actions.values()), **dict(actions)}, seeds, runs, enough=ENOUGH)


def _verdict(about: dict[str, Any], seeds: Sequence[str], runs: Mapping[str, Any], *, enough: int) -> dict[str, Any]:
    verdict = "survived"
    if about["hits"] < enough:
        verdict = f"struck too seldom: {enough} are wanted"
    if any(_violated(runs[seed]) for seed in seeds):
        verdict = "violated"
    return {**about, "seeds": sorted(seeds), "verdict": verdict}
