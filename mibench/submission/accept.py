"""Put the runs of a verified submission beside the published results, marked as submitted."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from mibench.errors import UserError
from mibench.publish.results import SUBMITTED, load_results
from mibench.records import SCHEMA, RunRecord
from mibench.store.atomic import write_text
from mibench.submission.contents import Submission


def accept(sent: Submission, results: Path, name: str) -> tuple[Path, list[RunRecord], list[str]]:
    """Write ``submitted/<name>.json`` below ``results``; the file, the runs in it, and the ids of runs that are
    published already and so were left out. Raises UserError if none is left, or another file has that name."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", name):
        raise UserError(f"A submission cannot be called {name!r}. Give it a --name of a-z, 0-9, _, . and -.")
    path = results / SUBMITTED / f"{name}.json"
    if path.exists():
        raise UserError(f"{path} exists. Give this submission another --name.")
    known = {run.run for run in load_results(results)}
    fresh = [replace(run, origin="submitted") for run in sent.records if run.run not in known]
    if not fresh:
        raise UserError("All runs of this submission are published already.")
    data = {"schema": SCHEMA, "runs": [run.published() for run in fresh]}
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")
    return path, fresh, [run.run for run in sent.records if run.run in known]
