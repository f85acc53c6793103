"""The shapes of what a submission says: its index, the stages' manifests and the table of judged images. Nothing is
converted and nothing unknown is let through."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mibench.protocol.method_files import Entry
from mibench.submission.layout import Refused, shown

SCHEMA = 1
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}(/[a-z0-9][a-z0-9_.-]{0,63})?$")]
Names = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.+/-]{0,255}$")]  # re+bido
Label = Annotated[str, Field(pattern=r"^[a-z0-9][A-Za-z0-9_.,:;=+/\[\]{}'\" -]{0,499}$")]
Line = Annotated[str, Field(max_length=300, pattern=r"^[^\n]*$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Seconds = Annotated[float, Field(ge=0, lt=1e10)]
Model = TypeVar("Model", bound=BaseModel)
Positive = Annotated[int, Field(ge=1, lt=10**9)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class File(_Strict):
    path: str
    sha256: Key
    bytes: Count


class Plugin(_Strict):
    """A method's source. ``entry``: its section in the submitter's registry."""

    kind: Literal["defense", "attack"]
    id: Name
    version: Positive
    source_sha256: Key
    file: str
    entry: dict[str, Any]


class Weights(_Strict):
    """The weights of a target: in the submission, or somewhere else."""

    key: Key
    sha256: Key
    bytes: Count
    url: Annotated[str, Field(pattern=r"^https://[A-Za-z0-9.-]+(:[0-9]+)?/[^\s@\\<>\"']*$", max_length=500)] | None = (
        None
    )


class TrackPin(_Strict):
    """Which data a track's runs saw: the splits of its private images and of public images of another set."""

    version: Positive
    split: Key | None = None
    public_split: Key | None = None


class Index(_Strict):
    """``submission.json``. ``runs`` are checked against the manifests, from which they can be made again."""

    schema_: Literal[1] = Field(alias="schema")
    mibench: Line
    tracks: dict[Name, TrackPin]
    plugins: list[Plugin]
    weights: list[Weights]
    environments: list[dict[str, Any]]
    runs: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1000)]
    files: list[File]


class Code(_Strict):
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{7,64}$")] | None = None
    modified: bool | None = None


class Environment(_Strict):
    """What ``mibench.running.environment`` writes."""

    mibench: Line
    python: Line
    system: Line
    machine: Line
    packages: dict[Line, Line]
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:[0-9]+)?|mps)$")]
    peak_memory_mib: Count | None = None
    gpu: Line | None = None
    cuda: Line | None = None
    cpu_capability: Line | None = None
    threads: Count | None = None
    code: Code | None = None


class Output(_Strict):
    sha256: Key
    bytes: Count


class Usage(_Strict):
    attempts: Count | None = None
    device_seconds: Seconds | None = None


class Stage(_Strict):
    """A stage's manifest as the store has it, without its checksum."""

    kind: Line
    key: Key
    plugin: Names
    version: Positive
    params: dict[str, Any]
    non_default: dict[str, Any]
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    track: Name
    track_version: Positive
    inputs: dict[str, Key]
    outputs: dict[str, Output]
    seconds: Seconds
    started: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\.[0-9]{1,6})?(\+00:00|Z)$")]
    environment: Environment
    source_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64}(\+[0-9a-f]{64}){0,9})?$")]
    result: dict[str, Any]
    usage: Usage = Usage()
    schema_: Annotated[int, Field(alias="schema", ge=1, le=2)]


class Metric(_Strict):
    value: float | None
    n: Count
    ci_low: float | None
    ci_high: float | None
    reason: Line | None
    per_identity: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], float]


class Evaluation(_Strict):
    """The result of the stage ``evaluate``."""

    metrics: dict[Name, Metric]
    versions: dict[Name, Positive]


class Image(_Strict):
    """One reconstruction and what the evaluator says of it."""

    label: Count
    index: Count
    file: Annotated[str, Field(pattern=r"^images/[0-9]{6}_[0-9]{3,6}\.png$")]
    score: float | None
    selected: bool
    notes: dict[Line, float]
    verdict: Count
    confidence: Annotated[float, Field(ge=0, le=1.000001)]
    correct: bool
    nearest: Count


class StageLine(_Strict):
    kind: Line
    key: Key
    plugin: Names
    version: Positive
    params: dict[str, Any]
    seed: Count
    seconds: Seconds
    peak_memory_mib: Count | None
    inputs: dict[str, Key] | None
    attempts: Count | None
    device_seconds: Seconds | None
    device: Line | None


class Record(_Strict):
    """A run's record, as ``results/`` has it."""

    run: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    track: Name
    track_version: Positive
    defense: Names
    attack: Name
    seed: Count
    defense_label: Label
    attack_label: Label
    defense_params: dict[str, Any]
    attack_params: dict[str, Any]
    status: Literal["done"]
    created: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\+00:00$")]
    metrics: dict[Name, Metric]
    stages: list[StageLine]
    environment: Environment
    queries: dict[str, dict[str, dict[str, Count]]]
    images: Annotated[list[Any], Field(max_length=0)]
    chance: float
    command: str
    deviations: Annotated[list[str], Field(max_length=50)]
    origin: Literal["measured"]
    features: dict[str, Any] | None
    reproduced: None = None


def read(model: type[Model], value: Any, name: str) -> Model:
    """``value`` as ``model``. Refused, with the first field that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise Refused(_first(error, name)) from None


def read_list(model: type[Image], value: Any, name: str) -> list[Image]:
    try:
        return TypeAdapter(list[model]).validate_python(value, strict=True)  # type: ignore[valid-type]
    except ValidationError as error:
        raise Refused(_first(error, name)) from None


def read_entry(value: dict[str, Any], name: str) -> Entry:
    """A section of a registry."""
    try:
        return Entry.model_validate(value)
    except ValidationError as error:
        raise Refused(_first(error, name)) from None


def _first(error: ValidationError, name: str) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))[:200]
    return f"{name}: {shown(where)}: {first['msg'][:200]} (found {shown(first['input'])})."
