"""Choose the presets of a small face track, and write down every trial.

    python scripts/tune.py orl32 --work FOLDER [--only ppa]

Nothing that a published figure uses is looked at. Targets have the seeds 100 to 102; they train on half of the track's
training photos, the other half are the validation photos, and the sealed photos are not opened. Evaluator and E2 are
trained anew on these photos; E3 is one network, which is not. The defense is ``none``, and what counts is
``att_maj``, the mean over the seeds; of equals the one listed first.

``scripts/trials-TRACK.yaml`` lists the trials of each attack: values over the preset ``small``, under ``prior`` those
of its prior. The table goes to docs/protocol.md, the figures to benchmarks/results/tuning-TRACK.json; what won is to be
written into registry.yaml, which tests/unit/test_docs.py checks. Done runs are kept in FOLDER.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from mibench.metrics import METRICS
from mibench.planning.plan import Plan
from mibench.protocol.methods import Kind, Selection
from mibench.protocol.tracks import Track
from mibench.records import FIRST_TUNING_SEED, RunRecord, Seeds
from mibench.registry import Registry
from mibench.resources import resource_root
from mibench.running.environment import describe
from mibench.running.placement import Placement
from mibench.running.request import BASELINE, build_plan
from mibench.running.runner import execute
from mibench.store.artifacts import Store
from mibench.store.db import Database

SEEDS = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + 3)
SHOWN = ("att_maj", "att1", "att1_e2", "att1_e3", "face_rate")
ROOT = Path(__file__).resolve().parents[1]


def tuning_track(track: Track) -> Track:
    """``track`` on its training photos alone: half of them train, half are sealed. They are drawn in the same order."""
    photos = track.private.train_per_identity or 0
    private = {"identities": track.private.identities}
    private |= {"train_per_identity": photos - photos // 2, "test_per_identity": photos // 2}
    changes = {"id": f"{track.id}-tuning", "title": f"{track.title}: choice of presets", "split": None}
    return Track.model_validate(track.model_dump() | changes | {"private": private})


def trial(registry: Registry, track: Track, attack: str, values: dict[str, Any]) -> Selection:
    """The attack with the values of a trial, whatever the presets for the track say now."""

    def asked(kind: Kind, name: str, wanted: dict[str, Any]) -> dict[str, Any]:
        presets, defaults = registry.entry(kind, name).presets, registry.plugin(kind, name).Params().model_dump()
        chosen = presets.get(track.presets[-1], {})
        return {key: presets["small"].get(key, defaults[key]) for key in chosen} | wanted

    params = asked("attack", attack, {name: value for name, value in values.items() if name != "prior"})
    if "prior" in values:
        prior = registry.entry("attack", attack).prior
        assert prior is not None
        params["prior_params"] = asked("prior", prior, values["prior"])
    return Selection("attack", attack, params=params)


def figures(records: list[RunRecord]) -> dict[str, Any]:
    values = {name: [r.metrics[name].value for r in records] for name in SHOWN}
    return {name: [round(v, 4) if v is not None else None for v in each] for name, each in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("track")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", action="append", default=[])
    options = parser.parse_args()

    registry = Registry(resource_root())
    track = tuning_track(registry.track(options.track))
    registry.add(track)
    store, database = Store(options.work), Database.open(home=options.work)
    trials: dict[str, list[dict[str, Any]]] = yaml.safe_load(
        (ROOT / f"scripts/trials-{options.track}.yaml").read_text()
    )
    path = ROOT / f"benchmarks/results/tuning-{options.track}.json"
    done: dict[str, Any] = json.loads(path.read_text())["attacks"] if path.is_file() else {}
    for attack, tried in trials.items():
        if options.only and attack not in options.only:
            continue
        rows = []
        for values in tried:
            asked = trial(registry, track, attack, values)
            plan = build_plan(
                registry, track, [registry.select("defense", BASELINE)], [asked], [Seeds.of(seed) for seed in SEEDS]
            )
            mine = [run for run in plan.runs if run.cell.attack.id == attack]
            keys = {stage.key for run in mine for stage in run.stages.values()}
            alone = Plan(
                {k: s for k, s in plan.stages.items() if k in keys}, mine, [], [r.cell for r in mine], plan.priors
            )
            result = execute(store, alone, Placement("cpu", 2), lambda *_: None, database, retry_failed=True)
            if result.outcome.failed:
                sys.exit(f"{attack} {values}: {next(iter(result.outcome.failed.values()))}")
            rows.append({"values": values, **figures(result.records)})
            print(attack, json.dumps(rows[-1]), flush=True)
        best = max(range(len(rows)), key=lambda i: sum(rows[i]["att_maj"]))
        done[attack] = {"trials": rows, "chosen": best}
        versions = {name: METRICS[name].version for name in SHOWN}
        content = {"track": options.track, "version": track.version, "seeds": list(SEEDS), "metrics": versions}
        content |= {"environment": describe(), "attacks": {name: done[name] for name in trials if name in done}}
        path.write_text(json.dumps(content, indent=1) + "\n")
        write_table(options.track, content["attacks"])


def write_table(track: str, attacks: dict[str, Any]) -> None:
    """Between the marks in docs/protocol.md: a row per trial, the chosen one in bold."""

    def percent(values: list[float | None]) -> str:
        known = [v for v in values if v is not None]
        return f"{100 * sum(known) / len(known):.1f}" if known else "-"

    lines = [
        "| attack | values over `small` | majority | E1 | E2 | E3 | faces |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for attack, block in attacks.items():
        for index, row in enumerate(block["trials"]):
            bold = "**" if index == block["chosen"] else ""
            shown = json.dumps(row["values"]).replace('"', "")
            cells = " | ".join(percent(row[name]) for name in SHOWN)
            lines.append(f"| {bold}{attack}{bold} | `{shown}` | {cells} |")
    page = ROOT / "docs/protocol.md"
    begin, end = f"<!-- tuning:{track} -->", f"<!-- /tuning:{track} -->"
    before, rest = page.read_text().split(begin)
    _, after = rest.split(end)
    page.write_text(before + begin + "\n" + "\n".join(lines) + "\n" + end + after)


if __name__ == "__main__":
    main()
