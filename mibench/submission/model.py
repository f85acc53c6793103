"""What a submission says, and how strictly it is read: nothing is converted, nothing unknown is let through. Its own
shapes are here: the index, the table of judged images, and what manifests hold as plain objects. Those of manifests and
records are the program's own (``mibench.store.manifest``, ``mibench.records``), with the bounds named there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mibench.records import Count, Key, MetricValue, Name, RunRecord, Seconds, Text, Version
from mibench.store.manifest import Damaged, Manifest
from mibench.submission.layout import Refused, shown

SCHEMA = 1
STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
Shape = TypeVar("Shape")


class _Strict(BaseModel):
    model_config = STRICT


class File(_Strict):
    path: str
    sha256: Key
    bytes: Count


class Plugin(_Strict):
    """A method's source. ``entry``: its section in the submitter's registry."""

    kind: Literal["defense", "attack", "prior"]
    id: Name
    version: Version
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

    version: Version
    split: Key | None = None
    public_split: Key | None = None


class Index(_Strict):
    """``submission.json``. ``runs`` are checked against the manifests, from which they can be made again."""

    schema_: Literal[1] = Field(alias="schema")
    mibench: Text
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

    mibench: Text
    python: Text
    system: Text
    machine: Text
    packages: dict[Text, Text]
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:[0-9]+)?|mps)$")]
    peak_memory_mib: Count | None = None
    gpu: Text | None = None
    cuda: Text | None = None
    cpu_capability: Text | None = None
    threads: Count | None = None
    code: Code | None = None


class Output(_Strict):
    sha256: Key
    bytes: Count


class Usage(_Strict):
    attempts: Count | None = None
    device_seconds: Seconds | None = None
    steps: Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)] | None = None


class StageObjects(_Strict):
    """What a stage's manifest holds as plain objects."""

    environment: Environment
    outputs: dict[str, Output]
    usage: Usage


class Evaluation(_Strict):
    """The result of the stage ``evaluate``."""

    metrics: dict[Name, MetricValue]
    versions: dict[Name, Version]


class Image(_Strict):
    """One reconstruction and what the evaluator says of it."""

    label: Count
    index: Count
    file: Annotated[str, Field(pattern=r"^images/[0-9]{6}_[0-9]{3,6}\.png$")]
    score: float | None
    selected: bool
    notes: dict[Text, float]
    verdict: Count
    confidence: Annotated[float, Field(ge=0, le=1.000001)]
    correct: bool
    nearest: Count
    e2: Count | None = None
    e3: Count | None = None


def read(shape: type[Shape], value: Any, name: str) -> Shape:
    """``value``, parsed JSON, as a model or a dataclass. Refused, with the first field that is wrong."""
    return _read(shape, [value], name, 1)[0]


def read_list(shape: type[Shape], values: Sequence[Any], name: str) -> list[Shape]:
    """Every one of ``values`` as ``shape``."""
    return _read(shape, values, name, 0)


def _read(shape: Any, values: Sequence[Any], name: str, outside: int) -> list[Any]:
    """``outside``: how many parts of the place of an error are not of the submission."""
    try:
        return _reader(shape).validate_json(json.dumps(values))  # a strict dataclass is read from text, not from a dict
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][outside:]))[:200]
        raise Refused(f"{name}: {shown(where)}: {first['msg'][:200]} (found {shown(first['input'])}).") from None


@cache
def _reader(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(list[shape], config=STRICT)


def read_stage(value: dict[str, Any], name: str) -> Manifest:
    """A stage's manifest as the store has it, without its checksum."""
    stage = read(Manifest, value, name)
    read(StageObjects, {part: getattr(stage, part) for part in StageObjects.model_fields}, name)
    try:
        return Manifest.from_json(value)
    except Damaged as error:
        raise Refused(f"{name}: {error}.") from None


def read_record(value: dict[str, Any], name: str) -> RunRecord:
    """A run's record, as ``results/`` has it: of a finished run, measured by whoever sends it, without its images. It
    says everything that a record says; only ``gradients``, what is of no finished run, or whether it was
    ``reproduced``, may be left out."""
    record = read(RunRecord, value, name)
    read(Environment, record.environment, f"{name}: environment")
    if record.to_json() != {"gradients": None, "reason": None, "reproduced": None, **value}:
        raise Refused(f"{name} does not say all that a record says. Pack again.")
    if (record.status, record.origin, record.images, record.reproduced) != ("done", "measured", [], None):
        raise Refused(f"{name} must be of a run that was done and measured, without its images. Pack again.")
    return record
