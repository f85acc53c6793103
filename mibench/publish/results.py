"""Published results: the files under ``results/`` that ``mibench export --format results`` wrote, those of accepted
submissions in ``results/submitted/``, and in ``results/reproduced/`` what running them again gave."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mibench.errors import UserError
from mibench.keys import digest
from mibench.records import SCHEMA, RunRecord

SUBMITTED, REPRODUCED = "submitted", "reproduced"


def load_results(folder: Path, reproduced: bool = True) -> list[RunRecord]:
    """The runs in all ``*.json`` of a folder and of its ``submitted``, file by file in order of their names; none if
    there is no folder. A run that is in both is the folder's own. With ``reproduced``, each with the outcome of its
    reproduction, if there is one of the same figures.

    Raises UserError for a file that is not such an export.
    """
    own = [run for path in sorted(folder.glob("*.json")) for run in load_file(path)]
    known = {run.run for run in own}
    sent = [_submitted(run) for path in sorted((folder / SUBMITTED).glob("*.json")) for run in load_file(path)]
    runs = own + [run for run in sent if run.run not in known]
    return [_reproduced(run, folder / REPRODUCED) for run in runs] if reproduced else runs


def _submitted(run: RunRecord) -> RunRecord:
    """Whatever a submitted file says of itself."""
    return replace(run, origin="submitted", reproduced=None)


def _reproduced(run: RunRecord, folder: Path) -> RunRecord:

    path = folder / f"{run.run}.json"
    if not path.is_file():
        return run
    try:
        outcome = json.loads(path.read_text(encoding="utf-8"))
        if (outcome["schema"], outcome["run"]) != (SCHEMA, run.run):
            raise ValueError(f"it is of schema {outcome['schema']!r} and run {outcome['run']!r}")
        return replace(run, **applied(run, outcome))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not what `mibench reproduce` writes: {error}.") from None


def load_file(path: Path) -> list[RunRecord]:
    """The runs in one such file. Raises UserError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']!r} instead of {SCHEMA}")
        return [RunRecord.from_json(run["record"]) for run in data["runs"]]
    except KeyError as error:
        raise UserError(
            f"{path} lacks {error}. Write it again: mibench export --format results -o {path.name}"
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not what `mibench export --format results` writes: {error}.") from None


def merged(measured: Iterable[RunRecord], published: Iterable[RunRecord]) -> list[RunRecord]:
    """Both, each run id once: a run in this machine's own database (with its images) before its published copy."""
    return list(({run.run: run for run in published} | {run.run: run for run in measured}).values())


def figures_of(record: RunRecord) -> str:
    """A name for the figures of a run."""
    return digest({name: metric.public() for name, metric in record.metrics.items()})


def applied(record: RunRecord, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``record`` that the outcome of a reproduction changes; none if it is of other figures."""
    if outcome.get("of") != figures_of(record):
        return {}
    return {"origin": outcome["verdict"], "reproduced": dict(outcome)}
