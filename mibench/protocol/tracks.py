"""Tracks: frozen, versioned protocols, read from ``registry.yaml`` without torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from mibench.errors import UserError, unknown

MOST = 1_000_000  # epochs, images, people
LARGEST = 1024  # side of an image in pixels


class _Section(BaseModel):
    """``ADDED`` names fields that came after the first keys and pins were published: at its default such a field is not
    in dumps, and so not in keys and pins. Bounds are where a slip ends, and not what is wise."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    ADDED: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_unused(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unused = {name for name in self.ADDED if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in dump(self).items() if name not in unused}


class PrivateSection(_Section):
    """Private identities, and how many of each one's images train the target; the rest is the sealed test split.

    Where the data set says how many images train and test, both counts are None. In a folder of one's own they may be
    given, or ``test_share`` of each class, or ``test_root``, a folder of the same classes whose images test.
    ``class_order`` says how its classes are numbered: as torchvision's ImageFolder does, ``natural`` (2 before 10), or
    as listed."""

    ADDED = frozenset({"test_share", "test_root", "class_order"})

    identities: int = Field(ge=2, le=MOST)
    train_per_identity: int | None = Field(default=None, ge=1, le=MOST)
    test_per_identity: int | None = Field(default=None, ge=1, le=MOST)
    test_share: float | None = Field(default=None, gt=0, lt=1)
    test_root: str | None = None
    class_order: Literal["lexicographic", "natural"] | tuple[str, ...] = "lexicographic"


class PublicSection(_Section):
    """Public images of other people. ``generated_share`` of them are samples of a public face generator.

    ``source``: another data set than the private one's own public images, ``folder`` (the images below ``root``), or
    ``none``. ``class_share``: the share of a folder's classes that are public instead of private. ``split`` pins the
    other set. ``images``: at most so many; None: all."""

    ADDED = frozenset({"source", "root", "class_share", "split"})

    images: int | None = Field(default=None, ge=1, le=10 * MOST)
    source: str | None = None
    root: str | None = None
    class_share: float | None = Field(default=None, gt=0, lt=1)
    split: str | None = None
    generated_share: float = Field(default=0.0, ge=0, le=1)
    identities: int | None = Field(default=None, ge=1, le=MOST)  # procedural sources only
    labelled: bool = False  # whether the public people's own photos carry identity labels


class RecipeSection(_Section):
    """How a network of the track is trained. What is not set is off."""

    arch: str
    epochs: int = Field(ge=1, le=MOST)
    batch: int = Field(ge=2, le=MOST)
    lr: float = Field(gt=0, le=1000)
    weight_decay: float = Field(ge=0, le=1000)
    shift: float = Field(default=0.0, ge=0, le=0.5, description="largest shift, as a fraction of the side")
    flip: bool = False
    rotate: float = Field(default=0.0, ge=0, le=180, description="largest rotation in degrees")
    scale: float = Field(default=0.0, ge=0, lt=1)
    light: float = Field(default=0.0, ge=0, lt=1, description="largest relative change of contrast and brightness")
    select: Literal["last", "best"] = "last"
    validation_per_identity: int = Field(default=0, ge=0, le=MOST)
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: float = Field(default=0.0, ge=0, lt=1, description="of sgd")
    nesterov: bool = False
    schedule: Literal["one_cycle", "constant", "steps"] = "one_cycle"
    milestones: tuple[Annotated[int, Field(ge=1, le=MOST)], ...] = Field(
        default=(), description="epochs after which steps multiplies the rate by gamma"
    )
    gamma: float = Field(default=0.1, gt=0, le=1000)
    crop: tuple[float, float] | None = Field(default=None, description="range of the area of a random resized crop")
    jitter: tuple[float, float, float, float] | None = Field(
        default=None, description="largest relative change of brightness, contrast, saturation; largest turn of the hue"
    )
    drop_last: bool = Field(default=False, description="leave an incomplete last batch out")
    initial: Literal["scratch", "imagenet", "ms1m"] = Field(default="scratch", description="weights to start from")
    resolution: int | None = Field(
        default=None, ge=8, le=LARGEST, description="side of the network's input if not the track's"
    )
    resize: Literal["pil", "tensor", "rendered"] = Field(
        default="pil",
        description="how a reconstruction gets to that side: as an 8-bit picture, as a tensor, or drawn at that side "
        "by a generator that can, and neither clamped nor rounded to 8 bits",
    )

    ADDED = frozenset(
        {"optimiser", "momentum", "nesterov", "schedule", "milestones", "gamma", "crop", "jitter", "drop_last"}
        | {"initial", "resolution", "resize"}
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.milestones) != (self.schedule == "steps"):
            raise ValueError("milestones go with schedule: steps, and the other way round")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones must rise")
        if (self.momentum or self.nesterov) and self.optimiser != "sgd":
            raise ValueError("momentum and nesterov go with optimiser: sgd")
        if self.crop and not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ValueError("crop: expected 0 < low <= high <= 1")
        if self.jitter and not (all(0 <= part < 1 for part in self.jitter[:3]) and 0 <= self.jitter[3] <= 0.5):
            raise ValueError("jitter: expected three numbers in [0, 1) and one in [0, 0.5]")
        if self.select == "best" and not self.validation_per_identity:
            raise ValueError("select: best needs validation_per_identity of at least 1")
        if self.resize == "rendered" and self.resolution is None:
            raise ValueError("resize: rendered goes with a resolution")
        return self

    @property
    def shown_side(self) -> int | None:
        """Of an evaluator that is shown floats instead of pictures: their side, in pixels."""
        return self.resolution if self.resize == "rendered" else None

    def changed(self, changes: dict[str, Any]) -> RecipeSection:
        """With other values of some fields; the network and its input stay. Raises UserError."""
        fields = [name for name in type(self).model_fields if name not in ("arch", "resolution", "resize")]
        for name in changes:
            if name not in fields:
                raise unknown("field of a recipe", name, fields)
        try:
            return RecipeSection.model_validate(self.model_dump() | changes)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "recipe"
            raise UserError(f"recipe: {where}: {first['msg']} (found {first['input']!r}).") from None


class EvaluatorSection(RecipeSection):
    """How the judge of reconstructions is trained, and how it judges."""

    photos: Literal["all", "train"] = Field(
        default="all", description="of the private people: all, or, as published, those that train the target"
    )
    transform_input: Literal["kept", "dropped"] = Field(
        default="kept",
        description="Inception-v3's step from mean and std 0.5 to ImageNet's: kept when it judges, or dropped, as in "
        "released attack code that builds the trained network again without it",
    )
    classes: int | None = Field(
        default=None,
        ge=2,
        le=MOST,
        description="that it knows; more than the private ones are the public people's, after them",
    )

    ADDED = RecipeSection.ADDED | {"photos", "transform_input", "classes"}

    @model_validator(mode="after")
    def _has_a_transform(self) -> Self:
        if self.transform_input != "kept" and self.arch != "inception_v3":
            raise ValueError(f"transform_input is Inception-v3's; {self.arch} has none")
        return self


class PanelSection(_Section):
    """The judges beside the legacy evaluator (specification of evaluation, 7.2). ``cross``: the second one's recipe; it
    is trained on the sealed photos alone. ``open_set``: what the third one knows, which never saw a private label;
    None: there is none for such images."""

    cross: RecipeSection
    open_set: Literal["faces"] | None = None


class AttackSection(_Section):
    """Which identities are attacked and how many reconstructions are asked for each. ``stored``: how a reconstruction
    becomes bytes; the released 64-pixel code cuts off what is behind the point."""

    ADDED = frozenset({"stored"})

    identities: Literal["all"] | int = "all"
    images_per_identity: int = Field(ge=1, le=MOST)
    stored: Literal["rounded", "truncated"] = "rounded"


class Track(_Section):
    """One protocol. ``split`` is the pinned SHA-256 of the private and public split (see ``mibench data check``).

    ``source`` is a module of ``mibench/data``, a data set of ``mibench/data/sets``, or ``folder``, whose images lie in
    ``root``. ``decode``: how files of a folder become pixels, see ``mibench/data/sets/imaging.py``."""

    ADDED = frozenset(
        {"root", "file", "family", "reported", "normalisation", "panel", "decode", "copies", "feature_space"}
    )

    id: str
    version: int = Field(ge=1, le=MOST)
    title: str
    kind: Literal["faces", "digits", "other"]
    sensitive: bool
    publish_private: bool = False  # whether the licence of the private images allows showing them on a public page
    source: str
    resolution: int = Field(ge=8, le=LARGEST)
    channels: Literal[1, 3]
    fill: tuple[Annotated[float, Field(ge=0, le=1)], ...]
    preset: str | tuple[str, ...] | None = None  # of every method that has it; of several the later ones win
    normalisation: tuple[float, float] | None = None  # mean and std that the target applies to pixels, if any
    split: str | None = None
    family: str | None = None  # tracks of one family, on the same data, share evaluators and public priors
    reported: dict[str, str | int] = Field(default_factory=dict)  # columns of reported.csv that the track repeats
    root: str | None = None
    file: str | None = None  # of a user's own track: how to ask for it again
    decode: Literal["photo", "imagefolder", "opencv"] = "photo"
    copies: Literal["refused", "allowed"] = "refused"  # of private images among the public ones of a folder
    feature_space: bool = True  # whether runs say where reconstructions lie in the target's features
    private: PrivateSection
    public: PublicSection = PublicSection()
    target: RecipeSection
    evaluator: EvaluatorSection
    panel: PanelSection | None = None
    attack: AttackSection
    metrics: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_pixels(self) -> Self:
        if len(self.fill) not in (1, self.channels):
            raise ValueError(f"fill has {len(self.fill)} numbers for {self.channels} channel(s)")
        if self.normalisation is not None:
            mean, std = self.normalisation
            if not (0 <= mean <= 1 and 0 < std <= 1):
                raise ValueError(
                    f"normalisation is mean {mean:g} and std {std:g}; pixels are in [0, 1], so expected a mean in "
                    "[0, 1] and a std in (0, 1]: divide what is meant for 0 to 255 by 255"
                )
        return self

    @model_validator(mode="after")
    def _enough_classes(self) -> Self:
        asked = self.attack.identities
        if asked != "all" and not 1 <= asked <= self.private.identities:
            raise ValueError(f"attack.identities is {asked}; the target has {self.private.identities} classes")
        known = self.evaluator.classes
        if known is not None and known < self.private.identities:
            raise ValueError(f"evaluator.classes is {known}; the target has {self.private.identities} classes")
        return self

    @property
    def presets(self) -> tuple[str, ...]:
        return (self.preset,) if isinstance(self.preset, str) else self.preset or ()

    @property
    def identities(self) -> list[int]:
        """The attacked identities, by private label."""
        count = self.private.identities if self.attack.identities == "all" else self.attack.identities
        return list(range(count))

    @property
    def chance(self) -> float:
        """Top-1 accuracy of guessing."""
        return 1 / self.private.identities

    def part(self, *names: str, shared: bool = False) -> dict[str, Any]:
        """The named sections, with what fixes the data: what enters a stage key. ``base`` is always in it. ``shared``:
        of a stage that all tracks of the family have in common."""
        base = {
            "id": (shared and self.family) or self.id,
            "version": self.version,
            "source": self.source,
            "resolution": self.resolution,
            "channels": self.channels,
            "kind": self.kind,
            "fill": list(self.fill),
            "split": self.split,
        }
        if self.normalisation is not None:
            base["normalisation"] = list(self.normalisation)
        dump = self.model_dump(mode="json")
        for section, place in (("public", "root"), ("private", "test_root")):
            dump[section].pop(place, None)  # where images lie changes nothing
        return base | {name: dump[name] for name in names}
