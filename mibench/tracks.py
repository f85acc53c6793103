"""Tracks: frozen, versioned protocols, read from ``registry.yaml`` without torch."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PrivateSection(_Section):
    """Private identities, and how many of each one's images train the target; the rest is the sealed test split."""

    identities: int = Field(ge=2)
    train_per_identity: int = Field(ge=1)
    test_per_identity: int = Field(ge=1)


class PublicSection(_Section):
    """Public images of other people. ``generated_share`` of them are samples of a public face generator."""

    images: int = Field(ge=1)
    generated_share: float = Field(default=0.0, ge=0, le=1)
    identities: int | None = None  # procedural sources only
    labelled: bool = False  # whether the public people's own photos carry identity labels


class RecipeSection(_Section):
    """How a network of the track is trained: AdamW, one-cycle, random shift, flip, rotation, scale and light."""

    arch: str
    epochs: int = Field(ge=1)
    batch: int = Field(ge=2)
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    shift: float = Field(default=0.0, ge=0, le=0.5, description="largest shift, as a fraction of the side")
    flip: bool = False
    rotate: float = Field(default=0.0, ge=0, description="largest rotation in degrees")
    scale: float = Field(default=0.0, ge=0, lt=1)
    light: float = Field(default=0.0, ge=0, lt=1, description="largest relative change of contrast and brightness")
    select: Literal["last", "best"] = "last"
    validation_per_identity: int = Field(default=0, ge=0)


class AttackSection(_Section):
    """Which identities are attacked and how many reconstructions are asked for each."""

    identities: Literal["all"] | int = "all"
    images_per_identity: int = Field(ge=1)


class Track(_Section):
    """One protocol. ``split`` is the pinned SHA-256 of the private and public split (see ``mibench data check``)."""

    id: str
    version: int
    title: str
    kind: Literal["faces", "digits"]
    sensitive: bool
    publish_private: bool = False  # whether the licence of the private images allows showing them on a public page
    source: str
    resolution: int
    channels: int
    fill: tuple[float, ...]
    preset: str | None = None
    split: str | None = None
    private: PrivateSection
    public: PublicSection
    target: RecipeSection
    evaluator: RecipeSection
    attack: AttackSection
    metrics: tuple[str, ...]

    @model_validator(mode="after")
    def _enough_classes(self) -> Self:
        asked = self.attack.identities
        if asked != "all" and not 1 <= asked <= self.private.identities:
            raise ValueError(f"attack.identities is {asked}; the target has {self.private.identities} classes")
        return self

    @property
    def identities(self) -> list[int]:
        """The attacked identities, by private label."""
        count = self.private.identities if self.attack.identities == "all" else self.attack.identities
        return list(range(count))

    @property
    def chance(self) -> float:
        """Top-1 accuracy of guessing."""
        return 1 / self.private.identities

    def part(self, *names: str) -> dict[str, Any]:
        """The named sections, with what fixes the data: what enters a stage key. ``base`` is always in it."""
        base = {
            "id": self.id,
            "version": self.version,
            "source": self.source,
            "resolution": self.resolution,
            "channels": self.channels,
            "kind": self.kind,
            "fill": list(self.fill),
            "split": self.split,
        }
        dump = self.model_dump(mode="json")
        return base | {name: dump[name] for name in names}
