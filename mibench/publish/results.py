"""Published results: the files under ``results/`` that ``mibench export --format results`` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mibench.errors import UserError
from mibench.records import SCHEMA, RunRecord


def load_results(folder: Path) -> list[RunRecord]:
    """The runs in all ``*.json`` of a folder, file by file in order of their names; none if there is no folder.

    Raises UserError for a file that is not such an export.
    """
    return [run for path in sorted(folder.glob("*.json")) for run in _load(path)]


def _load(path: Path) -> list[RunRecord]:
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
