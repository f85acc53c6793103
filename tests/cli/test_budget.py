"""What a run may ask of a target, as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny import Cli


def asked(record: dict[str, Any], who: str) -> dict[str, int]:
    """How many images a run asked about for somebody, by phase."""
    return {phase: sum(kinds.values()) for phase, kinds in record["queries"].get(who, {}).items()}


def test_a_budget_ends_an_attack_with_what_it_has_or_with_a_sentence(finished: Cli, tmp_path: Path) -> None:
    """SMILE asks about its pool of 8 for all and wants 4 for each of two images of a person: of 12, two each are left.
    P2I-MI asks about all public images, for all at once, and cannot stop."""
    cli = finished.copy(tmp_path)
    answer = cli.run("--attack", "smile", "--attack", "p2i", "--budget", "12", code=1)
    runs = {run["attack"]: run for run in answer["runs"] if run["attack"] in ("smile", "p2i")}
    assert runs["smile"]["status"] == "done" and runs["smile"]["metrics"]["att1"]["n"] == 10
    assert runs["smile"]["attack_label"] == "smile[query_budget=12]"
    assert runs["p2i"]["status"] == "failed" and "budget of 12 queries per identity" in runs["p2i"]["reason"]
    record = json.loads(cli("show", runs["smile"]["run"], "--json").stdout)
    assert asked(record, "shared") == {"search": 8}
    assert [asked(record, str(label)) for label in range(5)] == [{"optimisation": 4}] * 5
