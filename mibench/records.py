"""What the program knows of a run, as plain data: written by stages, kept in the database, shown on the site.

The fields' bounds are those that a stranger's record is held to (``mibench.submission.model``). What this program wrote
itself is not looked at again."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}(/[a-z0-9][a-z0-9_.-]{0,63})?$")]
Names = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.+/-]{0,255}$")]  # re+bido
Label = Annotated[str, Field(pattern=r"^[a-z0-9][A-Za-z0-9_.,:;=+/\[\]{}'\" -]{0,499}$")]
Text = Annotated[str, Field(max_length=300, pattern=r"^[^\n]*$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Version = Annotated[int, Field(ge=1, lt=10**9)]
Seconds = Annotated[float, Field(ge=0, lt=1e10)]
RunId = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
Identity = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]  # a label, as JSON has it in keys
Share = Annotated[float, Field(ge=0, le=1.000001)]
Cosine = Annotated[float, Field(ge=-1, le=1)]
JudgeName = Annotated[str, Field(pattern=r"^e[123]$")]
Created = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\+00:00$")]

SCHEMA = 1
# Of a stage, in the public object:
STAGE_FACTS = ("kind", "plugin", "version", "seed", "seconds", "peak_memory_mib", "attempts", "device_seconds")


@dataclass(frozen=True)
class MetricValue:
    """One metric of one run. ``value`` is None exactly when ``reason`` is set. ``per_identity`` maps a label to the
    value for that identity. Accuracies are fractions."""

    value: float | None
    n: Count = 0
    ci_low: float | None = None
    ci_high: float | None = None
    reason: Text | None = None
    per_identity: dict[Identity, float] = field(default_factory=dict)

    def public(self) -> dict[str, Any]:
        """The part that ``--json`` and ``export`` print."""
        return {key: getattr(self, key) for key in ("value", "ci_low", "ci_high", "n", "reason")}


@with_config(ConfigDict(extra="forbid"))
class Accuracy(TypedDict):
    """A macro mean over people with its 95 % interval."""

    value: Share
    ci_low: Share | None
    ci_high: Share | None


@with_config(ConfigDict(extra="forbid"))
class JudgeFacts(TypedDict, total=False):
    """What a judge knows of ``n`` real photos that it never saw (``mibench.metrics.panel.knowledge``), or the
    ``reason`` why it is not there. Of an open-set judge also its threshold, how many real photos it verifies, and its
    weights' SHA-256."""

    reason: Text
    n: Count
    top1: Accuracy
    top5: Accuracy
    look_alikes: Share | None
    calibration_error: Share | None
    threshold: Annotated[float, Field(allow_inf_nan=False)]
    verified: Share
    weights: Key


@with_config(ConfigDict(extra="forbid"))
class GradientFacts(TypedDict):
    """Whether the served target's gradients agree between views of an image (``mibench.stages.gradients``)."""

    images: Count
    views: Count
    cosine: Cosine | None
    cosine_low: Cosine | None
    cosine_high: Cosine | None
    without: Share
    accuracy: Share
    accuracy_views: Share


@with_config(ConfigDict(extra="forbid"))
class MethodFacts(TypedDict, total=False):
    """What a page says of a method besides its figures, as it was when a run of it was recorded. ``reference``: its
    paper as the registry has it."""

    title: Text
    summary: Text
    kind: Text | None
    family: Text | None
    access: Text | None
    prior: Text | None
    adaptive: bool
    presets: dict[Text, dict[str, Any]]
    costs: dict[Text, Text]
    deviations: Annotated[list[str], Field(max_length=50)]
    reference: dict[Text, Any]


@dataclass(frozen=True)
class StageInfo:
    """One stage of a run. ``seconds`` is what it took when it was computed, whoever asked for it then."""

    kind: Text  # of mibench.protocol.stage_kinds
    key: Key
    plugin: Names
    version: Version
    params: dict[str, Any]  # resolved
    seed: Count
    seconds: Seconds
    peak_memory_mib: Count | None = None  # of its process: on the device, or, on a CPU, in memory
    # None in older records:
    inputs: dict[str, Key] | None = None  # role -> key of the parent
    attempts: Count | None = None  # how often it was begun
    device_seconds: Seconds | None = None  # of a GPU: for how long it was held; of a CPU: in which a core worked
    device: Text | None = None
    non_default: dict[str, Any] | None = None  # those of ``params`` that enter the key


FIRST_TUNING_SEED = 100  # seeds from here on are for choosing settings; their runs are on no page
ATTACKS_APART = 1_000_000  # from one attack seed of a training to its next; trainings are numbered below it


@dataclass(frozen=True)
class Seeds:
    """What everything random of a run follows from. The training, the public prior and the judges of run number s have
    seed s; its attacks have s, then s + 1,000,000, s + 2,000,000 and so on: no two runs have the same."""

    target: int
    attack: int
    prior: int
    evaluator: int

    @classmethod
    def of(cls, number: int, again: int = 0) -> Seeds:
        """Of run ``number``, attacked for the first time or ``again``."""
        return cls(number, number + again * ATTACKS_APART, number, number)

    @property
    def again(self) -> int:
        """Which attack on its training this is, from 0 on."""
        return (self.attack - self.target) // ATTACKS_APART

    def __str__(self) -> str:
        return str(self.target) + (f", attack {self.again + 1}" if self.again else "")


def numbered(count: int, first: int = 0, attacks: int = 1) -> list[Seeds]:
    """Of ``count`` trainings, ``attacks`` times attacked each."""
    return [Seeds.of(number, again) for number in range(first, first + count) for again in range(attacks)]


@dataclass(frozen=True)
class RunRecord:
    """One run: a defense and an attack on a track, once, with everything a page about it shows. ``seed``: of its
    training."""

    run: RunId
    track: Name
    track_version: Version
    defense: Names
    attack: Name
    seed: Count
    defense_label: Label  # how to ask for it: "re[strong]", "re[area=0.1:0.6]"
    attack_label: Label
    defense_params: dict[str, Any]  # resolved
    attack_params: dict[str, Any]
    status: str  # done, failed
    created: Created  # ISO 8601, UTC
    metrics: dict[Name, MetricValue]
    stages: list[StageInfo]
    environment: dict[str, Any]
    # {"shared" | "<label>": {phase: {"forward": n, "gradient": n, "label": n}}}
    queries: dict[str, dict[str, dict[str, Count]]]
    images: list[dict[str, Any]]  # per image: label, index, file, selected, verdict, confidence, correct, nearest
    chance: float
    command: str
    deviations: Annotated[list[str], Field(max_length=50)] = field(default_factory=list)
    origin: str = "measured"  # measured, submitted, reproduced, differs
    features: dict[str, Any] | None = None  # what the stage ``features`` found, means only; None in older records
    gradients: GradientFacts | None = None  # of the served target (stage ``gradients``); None in older records
    judges: dict[JudgeName, JudgeFacts] | None = None  # of the track's panel (stage ``panel``)
    protected: list[Count] | None = None  # the people whom the defense protects; None: everybody
    methods: dict[Literal["defense", "attack"], MethodFacts] | None = None  # None in older records
    reason: Text | None = None  # why a run failed
    reproduced: dict[str, Any] | None = None  # what running it again gave (``mibench.submission.compare``), if it was

    @property
    def name(self) -> str:
        """A readable name: ``re+kedmi.orl32.s0``, the second attack on it ``re+kedmi.orl32.s0a2``."""
        again = self.seeds.again
        return f"{self.defense_label}+{self.attack_label}.{self.track}.s{self.seed}" + (
            f"a{again + 1}" if again else ""
        )

    @property
    def seeds(self) -> Seeds:
        """As its stages say. Those of older records have priors and judges of seed 0, whatever the run's number."""
        of = {stage.kind: stage.seed for stage in self.stages}
        evaluator = of.get("evaluator", 0)
        return Seeds(self.seed, of.get("invert", self.seed), of.get("prior", evaluator), evaluator)

    @property
    def searches(self) -> bool:
        """Whether the attack searches a prior."""
        return any(stage.kind == "prior" for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Seconds of computing behind this run, over all its stages."""
        return sum(stage.seconds for stage in self.stages)

    def public(self, cached: bool | None = None) -> dict[str, Any]:
        """The object that ``mibench run --json`` and ``export --format json`` print (schema 1)."""
        return {
            "run": self.run,
            "track": self.track,
            "defense": self.defense,
            "attack": self.attack,
            "seed": self.seed,
            "seeds": asdict(self.seeds) | ({} if self.searches else {"prior": None}),
            "status": self.status,
            "reason": self.reason,
            "cached": cached,
            "seconds": round(self.seconds, 3),
            "defense_label": self.defense_label,
            "attack_label": self.attack_label,
            "defense_params": self.defense_params,
            "attack_params": self.attack_params,
            "metrics": {name: metric.public() for name, metric in self.metrics.items()},
            "identities": len(self.identities),
            "exposure": self.exposure,
            "queries": self.asked(),
            "stages": [{key: getattr(stage, key) for key in STAGE_FACTS} for stage in self.stages],
        }

    @property
    def identities(self) -> list[int]:
        """The attacked identities."""
        judged = self.metrics.get("att1", MetricValue(None)).per_identity
        return sorted({int(image["label"]) for image in self.images} | {int(label) for label in judged})

    def apart(self, metric: str) -> tuple[float, float] | None:
        """The means of a metric over the people whom the defense protects and over the others, where it protects some
        of them and the metric is known person by person."""
        values = self.metrics.get(metric, MetricValue(None)).per_identity
        protected = {str(label) for label in self.protected or ()} & values.keys()
        groups = [[values[label] for label in labels] for labels in (protected, values.keys() - protected)]
        if not all(groups):
            return None
        one, other = (math.fsum(group) / len(group) for group in groups)
        return one, other

    @property
    def leakage(self) -> str:
        """What ranks a run: the majority of the judges where there is a panel, else E1's top-1."""
        return "att_maj" if "att_maj" in self.metrics else "att1"

    @cached_property
    def exposure(self) -> dict[str, Any] | None:
        """How what leaks spreads over people (``mibench.stats.exposure``), with ``images`` for each of them, without
        which ``any`` cannot be compared; None where it is not known person by person."""
        from mibench.stats.exposure import QUANTILES, exposure

        metric = self.metrics.get(self.leakage, MetricValue(None))
        people = list(metric.per_identity.values())
        if not people:
            return None
        found = asdict(exposure(people))
        spread = {f"p{100 * q:.0f}": value for q, value in zip(QUANTILES, found.pop("quantiles"), strict=True)}
        return {"metric": self.leakage, "people": len(people), "images": metric.n / len(people)} | spread | found

    def published(self) -> dict[str, Any]:
        """What ``export --format results`` writes: the public object, and all but the images under ``record``."""
        return self.public() | {"record": self.to_json() | {"images": []}}

    def asked(self) -> dict[str, int]:
        """All questions to the target behind this run, prior and preparation included, by kind."""
        total = {"forward": 0, "gradient": 0, "label": 0}
        for phases in self.queries.values():
            for kinds in phases.values():
                for kind, count in kinds.items():
                    total[kind] += count
        return total

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def replaces(self, other: RunRecord | None) -> bool:
        """Whether this is the one to keep of two records of the same run: the one that is done, else the one with more
        stages, else the later, else the one that was reproduced later. A run that failed at first, or is completed by a
        newer version of the program, leaves its first record in the store, and so does one that is reproduced."""

        def rank(record: RunRecord) -> tuple[bool, int, str, str]:
            return (
                record.status == "done",
                len(record.stages),
                record.created,
                (record.reproduced or {}).get("created", ""),
            )

        return other is None or rank(self) >= rank(other)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RunRecord:
        values = dict(data)
        values["metrics"] = {name: MetricValue(**metric) for name, metric in data["metrics"].items()}
        values["stages"] = [StageInfo(**stage) for stage in data["stages"]]
        return cls(**values)
