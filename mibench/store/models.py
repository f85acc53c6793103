"""The tables of the index. What a page filters or computes on is a column; the rest of a record is JSON."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, Double, ForeignKey, ForeignKeyConstraint, MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_LARGEST = "1.7976931348623157e308"


def _finite(column: str) -> CheckConstraint:
    """NULL passes, NaN and infinities do not (SQLite makes NaN NULL, PostgreSQL sorts it above all)."""
    return CheckConstraint(f"{column} BETWEEN -{_LARGEST} AND {_LARGEST}", name=f"{column}_finite")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map = {dict[str, Any]: JSON, float: Double}


class Environment(Base):
    """A machine with its software, shared by content."""

    __tablename__ = "environment"
    sha256: Mapped[str] = mapped_column(primary_key=True)
    data: Mapped[dict[str, Any]]


class Stage(Base):
    """A finished stage; ``details`` holds the other fields of its manifest."""

    __tablename__ = "stage"
    __table_args__ = (
        CheckConstraint("length(key) = 64", name="key_length"),
        CheckConstraint("seconds >= 0", name="seconds_positive"),
        _finite("seconds"),
    )
    key: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(index=True)
    plugin: Mapped[str]
    version: Mapped[int]
    track: Mapped[str]
    track_version: Mapped[int]
    seed: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float]
    started: Mapped[str]
    environment: Mapped[str] = mapped_column(ForeignKey("environment.sha256"))
    details: Mapped[dict[str, Any]]


class StageInput(Base):
    """A parent of a stage. Not a foreign key: a child may be ingested before its parent."""

    __tablename__ = "stage_input"
    child: Mapped[str] = mapped_column(ForeignKey("stage.key", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
    parent: Mapped[str] = mapped_column(index=True)


class Run(Base):
    """A run; ``details`` holds the other fields of its record."""

    __tablename__ = "run"
    __table_args__ = (
        CheckConstraint("length(run) = 12", name="run_length"),
        CheckConstraint("status IN ('done', 'failed')", name="status_known"),
    )
    run: Mapped[str] = mapped_column(primary_key=True)
    track: Mapped[str] = mapped_column(index=True)
    track_version: Mapped[int]
    defense: Mapped[str]
    defense_label: Mapped[str]
    attack: Mapped[str]
    attack_label: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str]
    created: Mapped[str]
    environment: Mapped[str] = mapped_column(ForeignKey("environment.sha256"))
    details: Mapped[dict[str, Any]]


class Metric(Base):
    """A metric of a run: a value, or the reason why there is none."""

    __tablename__ = "metric"
    __table_args__ = (
        CheckConstraint("(value IS NULL) = (reason IS NOT NULL)", name="value_or_reason"),
        CheckConstraint("n >= 0", name="n_positive"),
        CheckConstraint("ci_low <= ci_high", name="interval_order"),
        CheckConstraint("(ci_low IS NULL) = (ci_high IS NULL)", name="interval_whole"),
        _finite("value"),
        _finite("ci_low"),
        _finite("ci_high"),
    )
    run: Mapped[str] = mapped_column(ForeignKey("run.run", ondelete="CASCADE"), primary_key=True)
    metric: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
    value: Mapped[float | None]
    n: Mapped[int]
    ci_low: Mapped[float | None]
    ci_high: Mapped[float | None]
    reason: Mapped[str | None]


class MetricSample(Base):
    """A metric of a run for one identity, which intervals and paired comparisons need."""

    __tablename__ = "metric_sample"
    __table_args__ = (
        ForeignKeyConstraint(
            ["run", "metric"],
            ["metric.run", "metric.metric"],
            name="fk_metric_sample_metric",
            ondelete="CASCADE",
        ),
        _finite("value"),
    )
    run: Mapped[str] = mapped_column(primary_key=True)
    metric: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
    value: Mapped[float]
