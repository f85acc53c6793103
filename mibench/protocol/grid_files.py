"""Grid files: what ``mibench run --grid FILE`` runs. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mibench.errors import UserError
from mibench.protocol.yaml_files import read_yaml

MOST_SEEDS = 10_000


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Block(_Model):
    """Every defense of the block against every attack on every track, over the trainings 0 to ``seeds`` - 1, each
    attacked ``attack_seeds`` times. Methods are written as on the command line; ``settings`` hold ``defense.NAME``
    and ``attack.NAME`` parameters; ``adaptive`` adds what --adaptive adds."""

    tracks: tuple[str, ...] = Field(min_length=1)
    defenses: tuple[str, ...] = Field(min_length=1)
    attacks: tuple[str, ...] = Field(min_length=1)
    seeds: int = Field(1, ge=1, le=MOST_SEEDS)
    attack_seeds: int = Field(1, ge=1, le=1000)
    settings: dict[str, Any] = Field(default_factory=dict)
    adaptive: bool = False


class GridFile(_Model):
    schema_: Literal[1] = Field(alias="schema")
    title: str = ""
    grid: tuple[Block, ...] = Field(min_length=1)


def read_grid(path: Path) -> GridFile:
    """Raises UserError for a file that is not there or not a grid, with the place and what is wrong there."""
    try:
        return GridFile.model_validate(read_yaml(path, "grid file"))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors())
        raise UserError(
            f"The grid file {path} is wrong. {faults}. Expected schema: 1 and grid: a list of blocks with tracks, "
            "defenses, attacks and, if not 1, seeds and attack_seeds."
        ) from None
