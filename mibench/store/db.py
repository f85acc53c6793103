"""The index of stages and runs. The manifests suffice to make it again at any time."""

from __future__ import annotations

import atexit
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine

from mibench.errors import UserError
from mibench.keys import canonical, digest
from mibench.records import MetricValue, RunRecord
from mibench.store import artifacts, atomic, engine
from mibench.store.artifacts import Manifest, Store
from mibench.store.models import Base, Environment, Metric, MetricSample, Run, Stage, StageInput
from mibench.store.scratch import scratch

MANY = 500  # keys in one statement
_STAGE_COLUMNS = ("key", "kind", "plugin", "version", "track", "track_version", "seed", "seconds", "started")
_RUN_COLUMNS = (
    *("run", "track", "track_version", "defense", "defense_label", "attack", "attack_label"),
    *("seed", "status", "created"),
)


class Database:
    """Stages and runs as rows. One coordinator writes, any number of processes read."""

    def __init__(self, opened: Engine, home: Path, copied: bool = False) -> None:
        self._engine = opened
        self.home = home
        self._copied = copied

    @classmethod
    def open(cls, url: str | None = None, home: Path | None = None) -> Database:
        """Open, make or migrate the database at ``url``, else ``MIBENCH_DB``, else ``home``/mibench.db.

        A new database takes in what the store already holds, so that a deleted file mends itself. Of a file that cannot
        be written, in a home that is read-only or somebody else's, a copy is opened: it answers, and remembers nothing.

        Raises:
            UserError: it is damaged, newer than this program, or not a mibench database.
            MissingError: it cannot be reached or written, or its driver is not installed.
        """
        home = home or artifacts.home()
        target = engine.address(url, home)
        file = engine.sqlite_file(target)
        copied = file is not None and not atomic.writable(file)
        if file is not None and copied:
            kept = ExitStack()
            atexit.register(kept.close)
            target = target.set(database=str(engine.copied(file, kept.enter_context(scratch("db")))))
        database = cls(engine.connect(target), home, copied)
        if engine.prepare(database._engine):
            database._ingest_all(Store(home).manifests())
        return database

    @classmethod
    def rebuild(cls, store: Store, url: str | None = None) -> Database:
        """Make the database again from the manifests alone, whatever state it is in.

        A SQLite file is built anew and swapped in; the old one is kept as ``<name>.before-rebuild``.
        """
        target = engine.address(url, store.home)
        file = engine.sqlite_file(target)
        if file is None:
            database = cls.open(url, store.home)
            database._ingest_all(store.manifests(), fresh=True)
            return database
        with atomic.write_file(file) as scratch:
            fresh = cls(engine.connect(target.set(database=str(scratch))), store.home)
            engine.prepare(fresh._engine)
            fresh._ingest_all(store.manifests())
            for suffix in ("-wal", "-shm", ""):  # the old log must never meet the new file
                old = file.with_name(file.name + suffix)
                if old.exists():
                    old.replace(file.with_name(f"{file.name}.before-rebuild{suffix}"))
        return cls.open(url, store.home)

    @property
    def path(self) -> Path | None:
        """The SQLite file, the original of a copy; None for PostgreSQL."""
        file = engine.sqlite_file(self._engine.url)
        return self.home / file.name if file is not None and self._copied else file

    def ingest(self, manifests: Iterable[Manifest]) -> None:
        """Insert or replace stages and runs, in one transaction."""
        self._ingest_all(manifests)

    def runs(
        self,
        track: str | None = None,
        defense: str | None = None,
        attack: str | None = None,
        seed: int | None = None,
        run: str | None = None,
    ) -> list[RunRecord]:
        """The runs that match all given arguments, sorted by track, defense, attack, their settings and seed.

        ``run`` may be the beginning of an id.
        """
        wanted = {Run.track: track, Run.defense: defense, Run.attack: attack, Run.seed: seed}
        conditions = [column == value for column, value in wanted.items() if value is not None]
        if run is not None:
            conditions.append(Run.run.startswith(run, autoescape=True))
        order = (
            *(Run.track, Run.track_version, Run.defense, Run.attack),
            *(Run.defense_label, Run.attack_label, Run.seed, Run.run),
        )
        with engine.reading(self._engine) as connection:
            rows = connection.execute(
                sa.select(Run.__table__, Environment.data.label("environment_data"))
                .join(Environment, Environment.sha256 == Run.environment)
                .where(*conditions)
            ).mappings()
            metrics = _metrics(connection, sa.select(Run.run).where(*conditions))
            names = [column.key for column in order]
            sorted_rows = sorted(rows, key=lambda row: tuple(row[name] for name in names))
        return [
            RunRecord.from_json(
                {name: row[name] for name in _RUN_COLUMNS}
                | row["details"]
                | {"environment": row["environment_data"], "metrics": metrics[row["run"]]}
            )
            for row in sorted_rows
        ]

    def stages(self) -> list[Manifest]:
        """The manifests of all stages, sorted by kind and key."""
        inputs: dict[str, dict[str, str]] = defaultdict(dict)
        with engine.reading(self._engine) as connection:
            for child, role, parent in connection.execute(
                sa.select(StageInput.child, StageInput.role, StageInput.parent).order_by(StageInput.position)
            ):
                inputs[child][role] = parent
            rows = connection.execute(
                sa.select(Stage.__table__, Environment.data.label("environment_data")).join(
                    Environment, Environment.sha256 == Stage.environment
                )
            ).mappings()
            sorted_rows = sorted(rows, key=lambda row: (row["kind"], row["key"]))
        return [
            Manifest(
                **{name: row[name] for name in _STAGE_COLUMNS},
                **row["details"],
                environment=row["environment_data"],
                inputs=inputs[row["key"]],
            )
            for row in sorted_rows
        ]

    def lacking(self, manifests: Iterable[Manifest]) -> list[Manifest]:
        """Those of ``manifests`` that are not in the database, or a run's only in an older record."""
        with engine.reading(self._engine) as connection:
            stages = set(connection.scalars(sa.select(Stage.key)))
            runs = {(run, created) for run, created in connection.execute(sa.select(Run.run, Run.created))}
        return [m for m in manifests if (m.key not in stages if m.kind != "run" else _recorded(m) not in runs)]

    def counts(self) -> dict[str, tuple[int, float]]:
        """By kind, how many stages there are and the seconds they took; runs under ``run``."""
        with engine.reading(self._engine) as connection:
            rows = connection.execute(
                sa.select(Stage.kind, sa.func.count(), sa.func.sum(Stage.seconds)).group_by(Stage.kind)
            )
            per_kind = {kind: (count, float(seconds)) for kind, count, seconds in rows}
            runs = connection.scalar(sa.select(sa.func.count()).select_from(Run)) or 0
        return per_kind | ({"run": (runs, 0.0)} if runs else {})

    def names(self) -> list[tuple[str, str]]:
        """Kind and key of every stage."""
        with engine.reading(self._engine) as connection:
            return [(kind, key) for kind, key in connection.execute(sa.select(Stage.kind, Stage.key))]

    def forget_missing(self, store: Store) -> None:
        """Remove the rows of stages that the store does not hold any more."""
        gone = [key for kind, key in self.names() if not store.path(kind, key).exists()]
        with engine.writing(self._engine) as connection:
            _forget(connection, Stage.key, gone)

    def durations(self) -> list[tuple[str, str, str, str, float, float]]:
        """Kind, method, track, parameters that are not the default as canonical JSON, seconds and steps (0 where they
        were not recorded) of every stage."""
        with engine.reading(self._engine) as connection:
            rows = connection.execute(
                sa.select(
                    *(Stage.kind, Stage.plugin, Stage.track, Stage.details["non_default"], Stage.seconds),
                    Stage.details["usage"],
                )
            )
            return [
                (kind, plugin, track, canonical(params), seconds, float((usage or {}).get("steps") or 0.0))
                for kind, plugin, track, params, seconds, usage in rows
            ]

    def check(self) -> list[str]:
        """One sentence for each fault: a damaged file, a dangling row, rows and store that differ."""
        try:
            return [*self._check_file(), *self._check_store()]
        except UserError as error:
            return [str(error)]

    def _check_file(self) -> Iterable[str]:
        if self.path is None:
            return
        with engine.reading(self._engine) as connection:
            for (line,) in connection.exec_driver_sql("PRAGMA quick_check"):
                if line != "ok":
                    yield f"The database {self.path} is damaged ({line}). {engine.REBUILD}"
            for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
                yield f"Row {row} of {table} refers to a row that {parent} lacks. {engine.REBUILD}"

    def _check_store(self) -> Iterable[str]:
        rows: dict[str, Manifest | RunRecord] = {f"{item.kind} {item.key}": item for item in self.stages()}
        rows |= {f"run {record.run}": record for record in self.runs()}
        stages, runs = _sorted_out(Store(self.home).manifests())
        held: dict[str, Manifest | RunRecord] = {f"{item.kind} {item.key}": item for item in stages}
        held |= {f"run {record.run}": record for record in runs}
        for name, stored in held.items():
            row = rows.pop(name, None)
            if row is None:
                yield f"The store holds {name}, the database does not. {engine.REBUILD}"
            elif row != stored:
                yield f"The database and the store differ on {name}. {engine.REBUILD}"
        for name in rows:
            yield f"The database holds {name}, the store does not. {engine.REBUILD}"

    def _ingest_all(self, manifests: Iterable[Manifest], fresh: bool = False) -> None:
        with engine.writing(self._engine) as connection:
            if fresh:
                for table in reversed(Base.metadata.sorted_tables):
                    connection.execute(sa.delete(table))
            stages, runs = _sorted_out(manifests)
            _put_stages(connection, stages)
            _put_runs(connection, runs)


def _sorted_out(manifests: Iterable[Manifest]) -> tuple[list[Manifest], list[RunRecord]]:
    """The stages, and of each run the record that counts."""
    stages: list[Manifest] = []
    runs: dict[str, RunRecord] = {}
    for manifest in manifests:
        if manifest.kind != "run":
            stages.append(manifest)
            continue
        record = RunRecord.from_json(manifest.result["record"])
        if record.replaces(runs.get(record.run)):
            runs[record.run] = record
    return stages, list(runs.values())


def _recorded(manifest: Manifest) -> tuple[str, str]:
    record = manifest.result["record"]
    return record["run"], record["created"]


def _put(connection: Connection, table: type[Base], rows: Collection[dict[str, Any]]) -> None:
    """Insert ``rows``, which have the same columns, or replace those with their primary keys."""
    if not rows:
        return
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    keys = [column.name for column in table.__table__.primary_key]
    statement = insert(table)
    fresh = {name: statement.excluded[name] for row in rows for name in row if name not in keys}
    if fresh:
        statement = statement.on_conflict_do_update(index_elements=keys, set_=fresh)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=keys)
    connection.execute(statement, list(rows))


def _forget(connection: Connection, column: Any, keys: Sequence[str]) -> None:
    """Delete the rows whose ``column`` is one of ``keys``."""
    for start in range(0, len(keys), MANY):
        connection.execute(sa.delete(column.class_).where(column.in_(keys[start : start + MANY])))


def _put_stages(connection: Connection, manifests: Sequence[Manifest]) -> None:
    elsewhere = {*_STAGE_COLUMNS, "environment", "inputs"}
    environments, rows, inputs = {}, [], []
    for manifest in manifests:
        sha256 = digest(manifest.environment)
        environments[sha256] = {"sha256": sha256, "data": manifest.environment}
        row = {name: getattr(manifest, name) for name in _STAGE_COLUMNS}
        row["details"] = {key: value for key, value in manifest.to_json().items() if key not in elsewhere}
        rows.append(row | {"environment": sha256})
        inputs += [
            {"child": manifest.key, "role": role, "position": position, "parent": parent}
            for position, (role, parent) in enumerate(manifest.inputs.items())
        ]
    _put(connection, Environment, environments.values())
    _put(connection, Stage, rows)
    _forget(connection, StageInput.child, [manifest.key for manifest in manifests])
    _put(connection, StageInput, inputs)


def _put_runs(connection: Connection, records: Sequence[RunRecord]) -> None:
    elsewhere = {*_RUN_COLUMNS, "environment", "metrics"}
    environments, rows, metrics, samples = {}, [], [], []
    for record in records:
        sha256 = digest(record.environment)
        environments[sha256] = {"sha256": sha256, "data": record.environment}
        row = {name: getattr(record, name) for name in _RUN_COLUMNS}
        row["details"] = {key: value for key, value in record.to_json().items() if key not in elsewhere}
        rows.append(row | {"environment": sha256})
        for position, (name, metric) in enumerate(record.metrics.items()):
            key = {"run": record.run, "metric": name}
            metrics.append({**key, "position": position, **metric.public()})
            for place, (label, value) in enumerate(metric.per_identity.items()):
                samples.append({**key, "label": label, "position": place, "value": float(value)})
    _put(connection, Environment, environments.values())
    _put(connection, Run, rows)
    _forget(connection, Metric.run, [record.run for record in records])
    _put(connection, Metric, metrics)
    _put(connection, MetricSample, samples)


def _metrics(connection: Connection, runs: sa.Select[Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Run -> metric -> the fields of its ``MetricValue``, in the order in which they were stored."""
    by_run: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    names = [item.name for item in fields(MetricValue) if item.name != "per_identity"]
    for row in connection.execute(
        sa.select(Metric.__table__).where(Metric.run.in_(runs)).order_by(Metric.run, Metric.position)
    ).mappings():
        by_run[row["run"]][row["metric"]] = {name: row[name] for name in names} | {"per_identity": {}}
    for run, metric, label, value in connection.execute(
        sa.select(MetricSample.run, MetricSample.metric, MetricSample.label, MetricSample.value)
        .where(MetricSample.run.in_(runs))
        .order_by(MetricSample.run, MetricSample.metric, MetricSample.position)
    ):
        by_run[run][metric]["per_identity"][label] = value
    return by_run
