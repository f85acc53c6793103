"""What a suite of runs is to decide: statements, each with a test that is fixed before the runs are. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Pair = tuple[str, str]  # labels of two defenses: the one that a statement speaks for, and what it is compared with
Share = Annotated[float, Field(gt=0, lt=1)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Claim(_Model):
    """``attacks`` names a group of attacks of the suite. ``least`` is the smallest difference in leakage that counts: a
    statement of which the runs exclude as much does not hold."""

    title: str
    statement: str
    attacks: str
    least: Share = 0.05


class Lower(_Claim):
    """In each pair the worst attack recovers less from the first. ``equal_accuracy``: by how much accuracies may differ
    for a pair to count; ``attacks_on``: defenses that face another group of attacks."""

    test: Literal["lower"]
    pairs: tuple[Pair, ...] = Field(min_length=1)
    equal_accuracy: Share | None = None
    attacks_on: dict[str, str] = Field(default_factory=dict)

    @property
    def defenses(self) -> Iterator[str]:
        return (label for pair in self.pairs for label in pair)


class Trend(_Claim):
    """What the worst attack recovers falls along ``doses``, a number for each defense; ``dose`` says what it counts."""

    test: Literal["trend"]
    doses: dict[str, float] = Field(min_length=2)
    dose: str

    @property
    def defenses(self) -> Iterator[str]:
        return iter(self.doses)


class LeakAt(_Claim):
    """Leak@b, b = ``loss``, of ``defense`` is lower than that of every other key of ``settings``."""

    test: Literal["leak_at"]
    undefended: str
    defense: str
    loss: Share
    settings: dict[str, tuple[str, ...]] = Field(min_length=2)

    @property
    def defenses(self) -> Iterator[str]:
        return iter([self.undefended, *(label for labels in self.settings.values() for label in labels)])


class Measure(_Model):
    """A scalar of the stage ``features``, ``over`` another if named; of the first of a pair it is to be lower or
    higher, and a difference below ``least`` does not count."""

    title: str
    value: str
    over: str | None = None
    sign: Literal["lower", "higher"]
    least: Annotated[float, Field(gt=0)]


class Features(_Claim):
    """In each pair, under each attack, every measure is on its side."""

    test: Literal["features"]
    pairs: tuple[Pair, ...] = Field(min_length=1)
    measures: tuple[Measure, ...] = Field(min_length=1)

    @property
    def defenses(self) -> Iterator[str]:
        return (label for pair in self.pairs for label in pair)


Claim = Annotated[Lower | Trend | LeakAt | Features, Field(discriminator="test")]
