"""The index: nothing lost, nothing impossible stored, made again from the manifests whatever happens."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from mibench.errors import MissingError, UserError
from mibench.keys import digest
from mibench.records import MetricValue, RunRecord
from mibench.store import engine
from mibench.store.artifacts import Manifest, Store
from mibench.store.db import Database
from mibench.store.models import Base
from tests.factories import make_run, run_manifest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_database_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIBENCH_DB", raising=False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def new_database() -> Iterator[str]:
    server = os.environ.get("MIBENCH_TEST_POSTGRES")
    if not server:
        pytest.skip("no PostgreSQL here: .ci/services start DIR, source DIR/env")
    name = f"test_{secrets.token_hex(6)}"
    own = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with own.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield server.rpartition("/")[0] + f"/{name}"
    with own.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    own.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The test runs on both kinds of databases: ``Database.open(home=...)`` opens this one."""
    if request.param == "sqlite":
        yield "sqlite"
        return
    for address in new_database():
        monkeypatch.setenv("MIBENCH_DB", address)
        yield "postgresql"


both = pytest.mark.usefixtures("either")


def _stage(name: str = "target", kind: str = "target", **overrides: Any) -> Manifest:
    values: dict[str, Any] = {
        "plugin": "re",
        "version": 2,
        "params": {"b": 0.1, "a": [1, 2.0, None]},
        "non_default": {"b": 0.1},
        "seed": 2**62,
        "track": "orl32",
        "track_version": 1,
        "inputs": {"z": digest("parent"), "a": digest("other")},
        "seconds": 12.25,
        "started": "2026-01-01T00:00:00Z",
        "environment": {"python": "3.11", "device": "cpu"},
        "source_sha256": "ab" * 32,
        "result": {"nat1": 0.9},
    }
    return Manifest(kind=kind, key=digest(name), **(values | overrides))


def _store(store: Store, manifest: Manifest) -> Manifest:
    """Publish ``manifest`` with a file and return it as stored."""
    with store.claim(manifest.kind, manifest.key) as claim:
        (claim.workdir / "data").write_text(manifest.key)
        store.publish(manifest.kind, manifest.key, claim.workdir, manifest)
    stored = store.manifest(manifest.kind, manifest.key)
    assert stored is not None
    return stored


def _fill(store: Store) -> Database:
    """A store with stages and runs, and its database fed as a coordinator does."""
    database = Database.open(home=store.home)
    for number in range(4):
        database.ingest([_store(store, _stage(f"target {number}"))])
        database.ingest([_store(store, _stage(f"prior {number}", "prior", inputs={}))])
    for seed in range(3):
        for defense in ("re", "none"):
            database.ingest([_store(store, run_manifest(make_run(seed=seed, defense=defense)))])
    return database


def _content(database: Database) -> tuple[list[Manifest], list[RunRecord]]:
    return database.stages(), database.runs()


# --- what goes in comes out


@both
def test_run_comes_back_as_it_was(store: Store) -> None:
    database = Database.open(home=store.home)
    record = make_run()
    database.ingest([run_manifest(record)])
    [found] = database.runs()
    assert found == record
    assert list(found.metrics) == list(record.metrics), "the order of metrics is kept"
    for name, metric in record.metrics.items():
        assert list(found.metrics[name].per_identity) == list(metric.per_identity)
    assert found.public() == record.public()


@both
def test_stage_comes_back_as_it_was(store: Store) -> None:
    database = Database.open(home=store.home)
    manifest = _store(store, _stage())
    database.ingest([manifest])
    assert database.stages() == [manifest]
    assert list(database.stages()[0].inputs) == ["z", "a"]
    assert database.check() == []


@both
def test_ingesting_again_replaces(store: Store) -> None:
    database = Database.open(home=store.home)
    record = make_run(att1=0.5)
    for _ in range(2):
        database.ingest([run_manifest(record)])
        database.ingest([_stage()])
    newer = make_run(att1=0.25, status="failed")
    assert newer.run == record.run
    database.ingest([run_manifest(newer)])
    database.ingest([_stage(inputs={"only": digest("x")})])
    assert database.runs() == [newer]
    assert database.stages()[0].inputs == {"only": digest("x")}


@both
def test_runs_are_filtered_and_sorted(store: Store) -> None:
    database = Database.open(home=store.home)
    records = [
        make_run(track=track, defense=defense, attack=attack, seed=seed)
        for track in ("orl32", "mnist28")
        for defense in ("re", "none")
        for attack in ("kedmi", "gmi")
        for seed in (10, 2)
    ]
    for record in random.Random(0).sample(records, len(records)):
        database.ingest([run_manifest(record)])
    expected = sorted(records, key=lambda r: (r.track, r.defense, r.attack, r.seed))
    assert database.runs() == expected
    assert database.runs(track="orl32") == [r for r in expected if r.track == "orl32"]
    assert database.runs(defense="re", seed=2) == [r for r in expected if (r.defense, r.seed) == ("re", 2)]
    assert database.runs(attack="gmi", track="mnist28", defense="none", seed=10) == [
        r for r in expected if (r.attack, r.track, r.defense, r.seed) == ("gmi", "mnist28", "none", 10)
    ]
    assert database.runs(run=expected[0].run) == database.runs(run=expected[0].run[:8]) == [expected[0]]
    assert database.runs(run="%") == database.runs(track="nothing") == []


@both
def test_run_manifest_is_a_run(store: Store) -> None:
    database = Database.open(home=store.home)
    record = make_run()
    database.ingest([run_manifest(record)])
    assert database.runs() == [record] and database.stages() == []


# --- what cannot be stored


@both
@pytest.mark.parametrize(
    "metric",
    [
        MetricValue(None),
        MetricValue(0.5, reason="both"),
        MetricValue(float("nan")),
        MetricValue(float("inf")),
        MetricValue(0.5, ci_low=0.1),
        MetricValue(0.5, ci_low=0.6, ci_high=0.4),
        MetricValue(0.5, n=-1),
        MetricValue(0.5, per_identity={"1": float("nan")}),
        MetricValue(0.5, per_identity={"1": float("-inf")}),
    ],
)
def test_impossible_metrics_are_refused_and_leave_no_trace(store: Store, metric: MetricValue) -> None:
    database = Database.open(home=store.home)
    good = make_run()
    database.ingest([run_manifest(good)])
    with pytest.raises((sa.exc.IntegrityError, ValueError)):
        database.ingest([run_manifest(replace(good, metrics={"att1": metric}))])
    assert database.runs() == [good]


@both
def test_impossible_runs_and_stages_are_refused(store: Store) -> None:
    database = Database.open(home=store.home)
    for record in (make_run(run="short"), make_run(status="half"), make_run(chance=float("nan"))):
        with pytest.raises((sa.exc.IntegrityError, sa.exc.StatementError, ValueError)):
            database.ingest([run_manifest(record)])
    for manifest in (replace(_stage(), key="ab"), _stage(seconds=-1.0), _stage(seconds=float("inf"))):
        with pytest.raises((sa.exc.IntegrityError, ValueError)):
            database.ingest([manifest])
    assert _content(database) == ([], [])


def test_foreign_keys_are_enforced(store: Store) -> None:
    database = Database.open(home=store.home)
    with pytest.raises(sa.exc.IntegrityError), engine.writing(database._engine) as connection:
        connection.exec_driver_sql("INSERT INTO metric VALUES ('abc', 'att1', 0, 0.5, 1, NULL, NULL, NULL)")


# --- settings and migrations


def test_sqlite_settings(store: Store) -> None:
    database = Database.open(home=store.home)
    with engine.reading(database._engine) as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "busy_timeout", "foreign_keys", "synchronous")
        }
    assert settings == {"journal_mode": "wal", "busy_timeout": 30_000, "foreign_keys": 1, "synchronous": 1}


def test_migrations_make_exactly_the_models(store: Store) -> None:
    database = Database.open(home=store.home)
    with engine.reading(database._engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        made = {
            row[0]: row[1]
            for row in connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
        }
    for table in Base.metadata.sorted_tables:
        for constraint in table.constraints:
            assert f"CONSTRAINT {constraint.name} " in made[table.name], "checks are not compared by Alembic"


def test_one_line_of_revisions() -> None:
    script = ScriptDirectory(str(engine.MIGRATIONS))
    assert [item.revision for item in script.walk_revisions()][::-1] == engine.revisions()


@pytest.fixture
def next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it to go on as a version of the program that has one more migration."""

    def go() -> None:
        folder = tmp_path / "migrations"
        shutil.copytree(engine.MIGRATIONS, folder)
        (folder / "versions" / "9999_next.py").write_text(
            "import sqlalchemy as sa\nfrom alembic import op\nrevision = '9999'\n"
            f"down_revision = {engine.revisions()[-1]!r}\n"
            "def upgrade():\n    op.add_column('run', sa.Column('extra', sa.String(), nullable=True))\n"
        )
        monkeypatch.setattr(engine, "MIGRATIONS", folder)

    return go


def test_older_database_is_copied_and_migrated(store: Store, next_version: Any) -> None:
    before = _content(_fill(store))
    past = engine.revisions()[-1]
    next_version()
    database = Database.open(home=store.home)
    assert _content(database) == before
    with closing(sqlite3.connect(store.home / "mibench.db")) as connection:
        assert "extra" in [row[1] for row in connection.execute("PRAGMA table_info(run)")]
    with closing(sqlite3.connect(store.home / f"mibench.db.backup-{past}")) as backup:
        assert "extra" not in [row[1] for row in backup.execute("PRAGMA table_info(run)")]
        assert backup.execute("SELECT count(*) FROM run").fetchone() == (6,)


@both
def test_failed_migration_changes_nothing(store: Store, next_version: Any) -> None:
    before = _content(_fill(store))
    next_version()
    file = engine.MIGRATIONS / "versions" / "9999_next.py"
    file.write_text(file.read_text() + "    raise RuntimeError('half way')\n")
    with pytest.raises(RuntimeError, match="half way"):
        Database.open(home=store.home)
    file.unlink()
    assert _content(Database.open(home=store.home)) == before


@both
def test_newer_database_is_refused(store: Store, next_version: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = engine.MIGRATIONS
    next_version()
    Database.open(home=store.home)
    monkeypatch.setattr(engine, "MIGRATIONS", original)
    with pytest.raises(UserError, match=r"newer version of mibench .*9999"):
        Database.open(home=store.home)


def test_foreign_file_is_refused(store: Store) -> None:
    store.home.mkdir()
    with closing(sqlite3.connect(store.home / "mibench.db")) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(UserError, match="not a mibench database"):
        Database.open(home=store.home)


# --- many processes

_WRITER = """
import sys
from pathlib import Path
from mibench.store.db import Database
from tests.factories import make_run, run_manifest
home, number = Path(sys.argv[1]), int(sys.argv[2])
sys.stdin.readline()
database = Database.open(home=home)
for seed in range(30):
    database.ingest([run_manifest(make_run(defense=f"d{number}", seed=seed))])
    database.ingest([run_manifest(make_run(defense="shared", seed=seed))])
    assert len(database.runs(defense=f"d{number}")) == seed + 1
"""


@both
def test_eight_writers_lose_nothing(store: Store) -> None:
    """They also create the database at the same moment, and read between their writes."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(store.home), str(number)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.communicate()[1] == ""
        assert writer.returncode == 0
    database = Database.open(home=store.home)
    runs = database.runs()
    assert len(runs) == 9 * 30
    assert all(run == make_run(defense=run.defense, seed=run.seed) for run in runs)
    assert len([line for line in database.check() if "store does not" not in line]) == 0


def test_reader_is_not_blocked_by_a_writer(store: Store) -> None:
    database = _fill(store)
    with engine.writing(database._engine) as connection:
        connection.exec_driver_sql("DELETE FROM run")
        assert len(database.runs()) == 6


# --- trouble


def test_rebuild_equals_the_original(store: Store) -> None:
    database = _fill(store)
    before = _content(database)
    assert database.check() == []
    rebuilt = Database.rebuild(store)
    assert rebuilt.path == database.path
    assert _content(rebuilt) == _content(database) == before
    assert rebuilt.check() == []
    assert (store.home / "mibench.db.before-rebuild").exists()
    assert not [path for path in store.home.iterdir() if "tmp" in path.name]


def test_deleted_database_mends_itself(store: Store) -> None:
    before = _content(_fill(store))
    for file in store.home.glob("mibench.db*"):
        file.unlink()
    assert _content(Database.open(home=store.home)) == before


def _first_pages(data: bytes) -> bytes:
    return data[: 3 * 4096]


def _odd_length(data: bytes) -> bytes:
    return data[: len(data) // 2 + 100]


def _no_header(data: bytes) -> bytes:
    return b"\xff" * 100 + data[100:]


def _every_page(data: bytes) -> bytes:
    pages = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    return pages[0] + b"".join(bytes(64) + page[64:] for page in pages[1:])


def _another_file(_: bytes) -> bytes:
    return b"not a database"


@pytest.mark.parametrize("damage", [_first_pages, _odd_length, _no_header, _every_page, _another_file])
def test_damaged_database_is_named_and_rebuilt(store: Store, damage: Any) -> None:
    before = _content(_fill(store))
    file = store.home / "mibench.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match="mibench db rebuild"):
        _content(Database.open(home=store.home))
    assert _content(Database.rebuild(store)) == before


def test_any_overwritten_page_is_noticed(store: Store) -> None:
    """Whatever page is overwritten, ``check`` names the damage (one page at most may be empty)."""
    _fill(store)
    file = store.home / "mibench.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = file.read_bytes()
    rng = random.Random(0)
    noticed = 0
    for start in range(0, len(whole), 4096):
        file.write_bytes(whole[:start] + rng.randbytes(4096) + whole[start + 4096 :])
        try:
            problems = Database.open(home=store.home).check()
        except UserError as error:
            problems = [str(error)]
        noticed += bool(problems)
        assert all("mibench db rebuild" in line for line in problems)
    assert noticed >= len(whole) // 4096 - 1


def test_check_compares_rows_with_the_store(store: Store) -> None:
    database = _fill(store)
    changed, removed = [manifest for manifest in store.manifests() if manifest.kind != "run"][:2]
    shutil.rmtree(store.path(removed.kind, removed.key))
    database.ingest([replace(changed, seconds=99.0)])
    added = _store(store, _stage("added"))
    record = make_run(defense="unstored")
    database.ingest([run_manifest(record)])
    lines = database.check()
    assert any(f"database holds {removed.kind} {removed.key}" in line for line in lines)
    assert any(f"differ on {changed.kind} {changed.key}" in line for line in lines)
    assert any(f"store holds target {added.key}" in line for line in lines)
    assert any(f"database holds run {record.run}" in line for line in lines)
    assert len(lines) == 4
    Database.rebuild(store)
    assert database.check() == []


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingError, match="Not a directory"):
        Database.open(home=tmp_path / "file" / "home")
    (tmp_path / "mibench.db").mkdir()
    with pytest.raises(MissingError, match=r"mibench\.db"):
        Database.open(home=tmp_path)


def test_full_disk_is_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        database = Database.open(home=folder)
        with pytest.raises(MissingError, match="full"):
            for seed in range(1000):
                database.ingest([run_manifest(make_run(seed=seed))])
        stored = database.runs()
        assert stored == [make_run(seed=seed) for seed in range(len(stored))] and stored
    finally:
        subprocess.run(["umount", folder], check=True)


# --- addresses


@pytest.mark.parametrize("url", ["mysql://host/name", "nonsense", "sqlite://", "://", "mysql://user:secret@host/name"])
def test_wrong_url_is_a_sentence(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MIBENCH_DB") as caught:
        Database.open(url, tmp_path)
    assert "secret" not in str(caught.value)


def test_address_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIBENCH_DB", f"sqlite:///{tmp_path}/elsewhere/x.db")
    assert Database.open(home=tmp_path / "home").path == tmp_path / "elsewhere" / "x.db"


def test_missing_driver_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingError, match=r"pip install 'mibench\[postgres\]'"):
        Database.open("postgresql://user:secret@localhost/mibench", tmp_path)


# --- PostgreSQL


@pytest.fixture
def postgres() -> Iterator[str]:
    """The address of a database of our own on the server of ``.ci/services``."""
    yield from new_database()


def test_postgresql_holds_the_same(postgres: str, store: Store) -> None:
    before = _content(_fill(store))
    database = Database.open(postgres, store.home)
    assert database.path is None
    assert _content(database) == before, "a new database takes in what the store holds"
    record = make_run(seed=1, defense="re")
    database.ingest([run_manifest(record)])
    assert _content(database) == before
    for metric in (MetricValue(float("nan")), MetricValue(float("inf")), MetricValue(None)):
        with pytest.raises(sa.exc.IntegrityError):
            database.ingest([run_manifest(replace(record, metrics={"att1": metric}))])
    assert database.check() == []
    with engine.reading(database._engine) as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    database.ingest([run_manifest(make_run(defense="unstored"))])
    assert len(database.check()) == 1
    assert _content(Database.rebuild(store, postgres)) == before


def test_postgresql_is_copied_before_it_is_migrated(postgres: str, store: Store, next_version: Any) -> None:
    _fill(store)
    database = Database.open(postgres, store.home)
    past = engine.revisions()[-1]
    next_version()
    for _ in range(2):  # a second time the copy is replaced
        database = Database.open(postgres, store.home)
        with engine.writing(database._engine) as connection:
            columns = [column["name"] for column in sa.inspect(connection).get_columns("run")]
            copied = sa.inspect(connection).get_columns("run", schema=f"mibench_backup_{past}")
            count = connection.exec_driver_sql(f"SELECT count(*) FROM mibench_backup_{past}.run").scalar()
            assert "extra" in columns and "extra" not in [column["name"] for column in copied] and count == 6
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{past}'")
            connection.exec_driver_sql("ALTER TABLE run DROP COLUMN extra")


def test_unreachable_server_is_a_sentence(store: Store) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(MissingError, match="does not answer"):
        Database.open("postgresql://user:secret@127.0.0.1:1/mibench", store.home)


@both
def test_of_two_records_of_a_run_the_fuller_counts(store: Store) -> None:
    """A run that gained a stage leaves its first record in the store, whichever key sorts first."""
    old = make_run()
    new = replace(old, stages=[*old.stages, replace(old.stages[0], kind="features")], features={"draws": 10})
    database = Database.open(home=store.home)
    for first, second in ((old, new), (new, old)):
        manifests = [
            _store(store, run_manifest(record, f"{first.features} {number}"))
            for number, record in enumerate((first, second))
        ]
        database.ingest(manifests)
        assert database.runs() == [new]
        assert database.check() == []
    database.ingest([manifests[1]])  # the old one alone, as an older program would
    assert any("differ on run" in line for line in database.check())
    rebuilt = Database.rebuild(store)
    assert rebuilt.runs() == [new] and rebuilt.check() == []
