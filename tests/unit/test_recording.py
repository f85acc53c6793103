"""Runs that fail leave a record, which a finished one replaces."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from submissions import published

from mibench.records import Seeds
from mibench.registry import Registry
from mibench.running.recording import Recorder
from mibench.running.request import build_plan
from mibench.store import attempts
from mibench.store.artifacts import Store
from mibench.store.db import Database


@pytest.mark.parametrize(("outcome", "counts"), [("failed", True), ("died", False), ("missing", False)])
def test_a_training_that_would_fail_again_counts_until_it_is_done(
    tiny_root: Path, tmp_path: Path, outcome: str, counts: bool
) -> None:
    registry, store = Registry(tiny_root), Store(tmp_path)
    track = registry.track("tiny")
    plan = build_plan(registry, track, [], [registry.select("attack", "ppa")], [Seeds.of(3, again=1)])
    (planned,) = plan.runs
    stages = planned.stages
    attempt = attempts.begin(store.home, stages["target"].key, "cpu", stages["target"].source_sha256)
    attempts.end(store.home, stages["target"].key, attempt, outcome, "The loss became nan\nat step 3.", 1)
    found = {stages["evaluator"].key: published(store, plan, stages["evaluator"], track)}
    database = Database.open(home=tmp_path)
    recorder = Recorder(store, plan, found, database.ingest)
    database.ingest([*recorder.finish(), *recorder.failures()])
    records = database.runs()
    assert len(records) == counts
    for record in records:
        assert (record.run, record.status, record.metrics) == (planned.run, "failed", {})
        assert (record.reason, record.seeds) == ("target: The loss became nan at step 3.", planned.cell.seeds)
        assert record.seconds == found[stages["evaluator"].key].seconds, "what was not computed took no time"
        assert [stage.key for stage in record.stages] == [stage.key for stage in stages.values()]
    recorder = Recorder(
        store, plan, {s.key: published(store, plan, s, track) for s in stages.values()}, database.ingest
    )
    database.ingest(recorder.finish())
    assert recorder.failures() == []
    assert [(run.run, run.status, run.reason) for run in database.runs()] == [(planned.run, "done", None)]
    again = Database.rebuild(store)
    assert again.runs() == database.runs() and again.check() == []
