"""Suites: named lists of setups from ``suites/*.yaml``, each an attack on a track against some defenses. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mibench.errors import UserError, unknown
from mibench.protocol.claims import Claim, Lower
from mibench.protocol.yaml_files import extended, read_yaml


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Established(_Model):
    """What public sources show to exist, in words; not addressable."""

    id: str
    attack: str
    private: str
    public: str
    target: str
    resolution: int | str
    defenses: str
    evidence: Literal["C", "S"]


class SuiteCell(_Model):
    """One setup. ``defenses`` names a group; ``adaptive`` adds the attack's adaptive variants. ``confidence``: how sure
    sources are of it, where it is from any."""

    attack: str
    track: str
    defenses: str
    adaptive: bool = False
    confidence: Literal["H", "M", "L"] | None = None


class Suite(_Model):
    """``note`` says what the list is and what it is not; ``tracks`` are sections as in registry.yaml, in which
    ``extends`` takes over another one. ``claims`` are what its runs are to decide, each over ``seeds`` trainings and a
    group of ``attacks``."""

    schema_: Literal[1] = Field(alias="schema")
    title: str
    note: str
    established: tuple[Established, ...] = ()
    tracks: dict[str, dict[str, Any]] = Field(default_factory=dict)
    groups: dict[str, tuple[str, ...]]
    cells: dict[str, SuiteCell]
    seeds: int = Field(1, ge=1)
    attacks: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    claims: dict[str, Claim] = Field(default_factory=dict)

    def chosen(self, names: tuple[str, ...]) -> dict[str, SuiteCell]:
        """The cells called ``names``, all if there are none. Raises UserError for one that does not exist."""
        for name in names:
            if name not in self.cells:
                raise unknown("cell", name, self.cells)
        return {name: cell for name, cell in self.cells.items() if not names or name in names}


def suite_names(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "suites").glob("*.yaml"))


def load_suite(root: Path, name: str) -> Suite:
    """Raises UserError for a suite that does not exist or cannot be read."""
    names = suite_names(root)
    if name not in names:
        raise unknown("suite", name, names)
    path = root / "suites" / f"{name}.yaml"
    try:
        suite = Suite.model_validate(read_yaml(path, "suite"))
    except ValidationError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    for cell_name, cell in suite.cells.items():
        if cell.defenses not in suite.groups:
            raise UserError(f"{path}: cell {cell_name}: {unknown('group', cell.defenses, suite.groups)}")
    for claim_name, claim in suite.claims.items():
        for group in (claim.attacks, *(claim.attacks_on.values() if isinstance(claim, Lower) else ())):
            if group not in suite.attacks:
                raise UserError(f"{path}: claim {claim_name}: {unknown('group of attacks', group, suite.attacks)}")
    return suite


def suite_tracks(root: Path) -> Mapping[str, dict[str, Any]]:
    """The sections of every track that a suite brings, ``extends`` filled in."""
    tracks: dict[str, dict[str, Any]] = {}
    for name in suite_names(root):
        sections = load_suite(root, name).tracks
        for track in sections:
            if track in tracks:
                raise UserError(f"Two suites bring a track {track!r}.")
            tracks[track] = extended(track, sections)
    return tracks
