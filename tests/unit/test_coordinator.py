"""What runs when: the schedule against brute force, the coordinator against executors that fail, stop and share."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mibench.errors import EXIT_ENVIRONMENT, EXIT_FAILED
from mibench.planning.estimates import estimate, filled, past_seconds
from mibench.planning.plan import Stage
from mibench.planning.schedule import Schedule, chains
from mibench.running.coordinator import coordinate
from mibench.running.forecast import bound, makespan
from mibench.stages.events import Done, Event, Failed, Last, Said, Stopped


def stage(name: str, *parents: str) -> Stage:
    inputs = {parent: ("kind", parent) for parent in parents}
    return Stage("kind", name, "plugin", 1, {}, {}, 0, "track", inputs, title=name)


DIAMOND = [stage("a"), stage("b", "a"), stage("c", "a"), stage("d", "b", "c"), stage("e")]


@st.composite
def graphs(draw: st.DrawFn) -> list[Stage]:
    """Parents before children."""
    count = draw(st.integers(1, 14))
    found = []
    for number in range(count):
        parents = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        found.append(stage(str(number), *map(str, sorted(parents))))
    return found


def ancestors(stages: list[Stage], key: str) -> set[str]:
    parents = {own.key: set(own.inputs) for own in stages}
    found, todo = set(), [key]
    while todo:
        for parent in parents[todo.pop()]:
            if parent not in found:
                found.add(parent)
                todo.append(parent)
    return found


class Script:
    """An executor that runs ``slots`` stages at a time and ends each as it is told to."""

    alone = True

    def __init__(self, slots: int = 1, ends: dict[str, Last] | None = None) -> None:
        self.slots, self.ends = slots, ends or {}
        self.running: deque[str] = deque()
        self.order: list[str] = []
        self.asked: list[str] = []
        self.on_wait: Any = None

    def free(self) -> int:
        return self.slots - len(self.running)

    def start(self, stage: Stage) -> str:
        self.running.append(stage.key)
        self.order.append(stage.key)
        return "here"

    def wait(self, seconds: float | None) -> Iterator[tuple[str, Said]]:
        if self.on_wait:
            self.on_wait(self)
        if self.running:
            key = self.running.popleft()
            yield key, self.ends.get(key, Done())

    def wake(self) -> None: ...

    def stop(self) -> None:
        self.asked.append("stop")
        self.ends = {key: Stopped() for key in self.running}

    def kill(self) -> None:
        self.asked.append("kill")
        self.ends = {key: Failed(message="killed", ended=True) for key in self.running}

    def close(self) -> None: ...


def silent(stage: Stage, event: Event) -> None: ...


@settings(max_examples=200, deadline=None)
@given(graphs(), st.integers(1, 4), st.randoms(use_true_random=False))
def test_every_stage_once_and_parents_first(stages: list[Stage], slots: int, dice: random.Random) -> None:
    wrong = {own.key for own in stages if dice.random() < 0.15}
    executor = Script(slots, {key: Failed(message="no") for key in wrong})
    outcome = coordinate(Schedule(stages), executor, silent)
    above = {own.key: ancestors(stages, own.key) for own in stages}
    blocked = {key for key, parents in above.items() if parents & wrong}
    assert outcome.failed.keys() == wrong - blocked
    assert outcome.blocked.keys() == blocked
    assert outcome.done == {own.key for own in stages} - wrong - blocked
    assert sorted(executor.order) == sorted(outcome.done | outcome.failed.keys())
    for own in stages:
        if own.key in executor.order:
            before = executor.order[: executor.order.index(own.key)]
            assert above[own.key] <= set(before)
    for key, parent in outcome.blocked.items():
        assert parent in outcome.failed or parent in outcome.blocked
        assert parent in {k for own in stages if own.key == key for k in own.inputs}
    assert outcome.exit_code == (EXIT_FAILED if outcome.failed else 0) and not outcome.interrupted


@settings(max_examples=100, deadline=None)
@given(graphs(), st.randoms(use_true_random=False))
def test_chains_are_the_longest_paths(stages: list[Stage], dice: random.Random) -> None:
    seconds = {own.key: float(dice.randint(0, 9)) for own in stages}
    children: dict[str, list[str]] = {own.key: [] for own in stages}
    for own in stages:
        for parent in own.inputs:
            children[parent].append(own.key)

    def longest(key: str) -> float:
        return seconds[key] + max(map(longest, children[key]), default=0.0)

    assert chains(stages, seconds) == {own.key: longest(own.key) for own in stages}
    assert makespan(stages, set(), seconds, len(stages)) == max(chains(stages, seconds).values())
    assert makespan(stages, set(), seconds, 1) == sum(seconds.values())
    for slots in (2, 3):
        took = makespan(stages, set(), seconds, slots)
        least = bound(stages, seconds, slots)
        assert least <= took + 1e-9 and took <= (2 - 1 / slots) * least + 1e-9, "Graham's bound for list scheduling"


def test_longest_chain_first() -> None:
    executor = Script()
    coordinate(Schedule(DIAMOND, seconds={"a": 1, "b": 1, "c": 5, "d": 1, "e": 7.5}), executor, silent)
    assert executor.order == ["e", "a", "c", "b", "d"]


def test_what_is_done_is_not_waited_for() -> None:
    executor = Script()
    outcome = coordinate(Schedule(DIAMOND[1:], done={"a"}), executor, silent)
    assert outcome.done == {"b", "c", "d", "e"}
    left = coordinate(Schedule(DIAMOND[1:]), Script(), silent)
    assert left.done == {"e"}, "without its parent nothing starts"


def test_missing_things_outrank_failures() -> None:
    ends: dict[str, Last] = {
        "a": Failed(message="no disk", exit_code=EXIT_ENVIRONMENT),
        "e": Failed(message="NaN"),
    }
    assert coordinate(Schedule(DIAMOND), Script(2, ends), silent).exit_code == EXIT_ENVIRONMENT


def test_another_coordinator_is_left_its_stages() -> None:
    states = {"a": ["busy", "busy", "done"], "e": ["free"], "b": ["free"], "c": ["done"], "d": ["busy", "free"]}
    executor, told = Script(2), []

    def look(own: Stage) -> Any:
        return states[own.key].pop(0) if len(states[own.key]) > 1 else states[own.key][0]

    outcome = coordinate(
        Schedule(DIAMOND),
        executor,
        lambda own, event: told.append((own.key, event.event)),
        look=look,
        on_done=lambda own: told.append((own.key, "recorded")),
    )
    assert sorted(executor.order) == ["b", "d", "e"], "a and c were computed by somebody else"
    assert outcome.done == {"a", "b", "c", "d", "e"}
    assert {key for key, event in told if event == "recorded"} == outcome.done
    assert told.count(("a", "elsewhere")) == told.count(("d", "elsewhere")) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_second_ends(number: int) -> None:
    waits = 0

    def twice(executor: Script) -> None:
        nonlocal waits
        waits += 1
        if waits in (1, 2):
            os.kill(os.getpid(), number)
            if waits == 1:
                executor.slots, executor.running = 0, deque(executor.running)
                executor.held = executor.running.copy()  # type: ignore[attr-defined]
                executor.running.clear()
        elif waits == 3:
            executor.running = executor.held  # type: ignore[attr-defined]
            executor.kill()

    before = signal.getsignal(number)
    executor = Script(2)
    executor.on_wait = twice
    outcome = coordinate(Schedule(DIAMOND), executor, silent)
    assert signal.getsignal(number) == before
    assert executor.asked[:2] == ["stop", "kill"]
    assert outcome.interrupted and outcome.stopped == {"a", "e"} and not outcome.failed and outcome.exit_code == 0


def test_what_another_coordinator_finished_is_no_failure() -> None:
    """Our worker was ended while it waited for the other one's, which then was done."""
    looks = {"a": iter(["free", "done"])}
    executor = Script(1, {"a": Failed(message="It was ended at its limit of 3 s.")})
    outcome = coordinate(
        Schedule(DIAMOND), executor, lambda stage, event: None, lambda stage: next(looks.get(stage.key, iter(["free"])))
    )
    assert outcome.done == {"a", "b", "c", "d", "e"} and not outcome.failed and outcome.exit_code == 0


def test_estimates_from_the_most_alike() -> None:
    past = past_seconds(
        [
            ("kind", "plugin", "track", "{}", 10.0, 0.0),
            ("kind", "plugin", "track", "{}", 30.0, 0.0),
            ("kind", "plugin", "track", "{}", 20.0, 0.0),
            ("kind", "plugin", "track", '{"steps":9}', 90.0, 9.0),
            ("kind", "other", "track", "{}", 2.0, 1.0),
        ]
    )
    same = stage("same")
    like = Stage("kind", "like", "plugin", 1, {}, {"steps": 5}, 0, "track", steps=5)
    new = Stage("kind", "new", "unknown", 1, {}, {}, 0, "track", steps=6)
    far = Stage("kind", "far", "plugin", 1, {}, {}, 0, "elsewhere", steps=196)
    unknown = Stage("kind", "unknown", "plugin", 1, {}, {"steps": 7}, 0, "elsewhere")
    found = estimate([same, like, new, far, unknown], past)
    assert found == {"same": 20.0, "like": 50.0, "new": 36.0, "far": 1960.0}
    assert filled([same, unknown], found)["unknown"] == 43.0 and filled([far], {}) == {"far": 1.0}


def test_steps_grow_with_what_is_asked_for() -> None:
    """3 s of a short look are not what a long run is told: the seconds of the same method on another track are scaled
    by iterations, identities, images and pixels."""
    from mibench.planning.steps import steps_of
    from mibench.registry import Registry

    orl32, orl64 = (Registry().track(name) for name in ("orl32", "orl64"))
    short, long = {"iterations": 30, "lr": 0.1, "flip": True}, {"iterations": 1500, "lr": 0.1, "flip": True}
    assert steps_of("invert", long, orl32) == pytest.approx(50 * steps_of("invert", short, orl32))
    assert steps_of("invert", short, orl64) == pytest.approx(4 * steps_of("invert", short, orl32))
    assert steps_of("invert", short | {"population": 8}, orl32) == pytest.approx(8 * steps_of("invert", short, orl32))
    few = orl32.model_copy(update={"attack": orl32.attack.model_copy(update={"identities": 3})})
    assert steps_of("invert", short, orl32) == pytest.approx(10 * steps_of("invert", short, few))
    assert steps_of("prior", short, orl32) == steps_of("prior", short, few)
    once = steps_of("target", {"recipe": {"epochs": 1}}, orl32)
    assert steps_of("target", {}, orl32) == pytest.approx(orl32.target.epochs * once)


PLAN = """
import json, sys
from pathlib import Path
from mibench.records import numbered
from mibench.registry import Registry
from mibench.running.request import build_plan, select_all
registry = Registry(home=Path(sys.argv[1]))
defenses = select_all(registry, "defense", ["none", "re", "bido", "mid", "ls", "tl"])
attacks = select_all(registry, "attack", ["gmi", "kedmi", "plgmi", "lomma_gmi", "brepmi"])
plan = build_plan(registry, registry.track("synthfaces"), defenses, attacks, numbered(3))
stages = [(own.kind, own.plugin, "target" in own.inputs) for own in plan.stages.values()]
found = {"runs": len(plan.runs), "stages": stages, "unshared": plan.requests, "torch": "torch" in sys.modules}
print(json.dumps(found))
"""


def test_six_defenses_five_attacks_three_seeds(tmp_path: Path) -> None:
    """90 runs: 18 target trainings, three judges, three public GANs. Once the methods are known, without torch."""
    for attempt in ("asks the methods", "remembers"):
        done = subprocess.run([sys.executable, "-c", PLAN, str(tmp_path)], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        assert found["torch"] == (attempt == "asks the methods")
    counts: dict[str, int] = {}
    for kind, _, _ in found["stages"]:
        counts[kind] = counts.get(kind, 0) + 1
    assert found["runs"] == 90
    assert counts["evaluator"] == 3 and counts["target"] == counts["utility"] == 18
    assert [plugin for kind, plugin, own in found["stages"] if kind == "prior" and not own] == ["wgan_gp"] * 3
    assert counts["prior"] == 3 + 2 * 18  # KEDMI's and PLG-MI's are trained for each target
    assert counts["prepare"] == 2 * 18  # LOMMA's students, BREP-MI's starting points
    assert counts["invert"] == counts["evaluate"] == 90
    assert found["unshared"]["target"] == found["unshared"]["prior"] == found["unshared"]["evaluator"] == 90
