"""The results of studies, kept as ``studies/<study id>.json`` in the home folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mibench.errors import UserError
from mibench.store.atomic import write_json
from mibench.study.key import SCHEMA


def folder(home: Path) -> Path:
    return home / "studies"


def key_path(home: Path, study: str) -> Path:
    """Where ``build`` leaves the key of a study."""
    return folder(home) / "keys" / f"{study}.json"


def save(home: Path, result: dict[str, Any]) -> Path:
    """Write a study's result, replacing an earlier one of the same study."""
    path = folder(home) / f"{result['study']}.json"
    write_json(path, result)
    return path


def load_studies(home: Path) -> dict[str, list[dict[str, Any]]]:
    """Run id -> what each study found about that run, by study id: the ``runs`` entry of the result, with ``study``
    and ``raters``. Raises UserError for a file that cannot be read."""
    studies: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder(home).glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            if result["schema"] != SCHEMA:
                raise ValueError(f"it has schema {result['schema']}, this version reads {SCHEMA}")
            shared = {name: result[name] for name in ("study", "raters", "passing")}
            entries = {run: shared | entry for run, entry in result["runs"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{path} is not the result of a study ({error}). Delete it, or score the study again."
            ) from None
        for run, entry in entries.items():
            studies.setdefault(run, []).append(entry)
    return studies
