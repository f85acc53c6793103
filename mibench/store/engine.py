"""Opening the database: addresses, SQLite's settings, migrations, and its errors as sentences."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.pool import NullPool

from mibench.errors import MissingError, UserError
from mibench.store import atomic

MIGRATIONS = Path(__file__).with_name("migrations")
WAIT_SECONDS = 30
WRITERS = 0x6D6962656E6368  # the number of PostgreSQL's advisory lock for writers: "mibench"
NETWORK = ("nfs", "nfs4", "lustre", "cifs", "smb3", "smbfs", "beegfs", "gpfs", "fuse.sshfs")
REBUILD = "Type 'mibench db rebuild' to make it again from the stored results."


def address(url: str | None, home: Path) -> URL:
    """The database's URL: the argument, else ``MIBENCH_DB``, else ``mibench.db`` in ``home``."""
    text = url or os.environ.get("MIBENCH_DB")
    if not text:
        return URL.create("sqlite", database=str(home / "mibench.db"))
    try:
        parsed = make_url(text)
    except exc.ArgumentError:
        parsed = None
    if parsed is not None and parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    kind = parsed.get_backend_name() if parsed is not None else ""
    if parsed is None or kind not in ("sqlite", "postgresql") or (kind == "sqlite" and not parsed.database):
        shown = repr(text) if parsed is None else parsed.render_as_string()  # which hides the password
        raise UserError(
            f"The database URL {shown} is neither sqlite:////path/to/file.db nor "
            "postgresql://user:password@host/name. Set MIBENCH_DB to one of them, or unset it."
        )
    return parsed


def connect(url: URL) -> Engine:
    """An engine whose transactions are declared: readers see one state, writers wait for their turn.

    Raises:
        MissingError: the PostgreSQL driver is not installed.
    """
    if url.get_backend_name() == "sqlite":
        return _sqlite(url)
    try:
        return sa.create_engine(url, json_serializer=_dumps)
    except ModuleNotFoundError as error:
        raise MissingError(
            f"The database {url.render_as_string()} needs the Python package {error.name!r}. "
            "Type \"pip install 'mibench[postgres]'\"."
        ) from error


def _sqlite(url: URL) -> Engine:
    engine = sa.create_engine(
        url,
        poolclass=NullPool,  # a rebuild swaps the file: nobody may keep the old one open
        connect_args={"timeout": WAIT_SECONDS, "isolation_level": None},
        json_serializer=_dumps,
    )

    @sa.event.listens_for(engine, "connect")
    def settings(connection: Any, _: Any) -> None:
        connection.execute(f"PRAGMA busy_timeout = {WAIT_SECONDS * 1000}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = NORMAL")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get("writing")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    with sentences(engine.url), engine.begin() as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that waits until no other one writes, on either kind of database: two coordinators that replace
    the same run's metrics would otherwise meet in the middle."""
    with sentences(engine.url), engine.execution_options(writing=True).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(WRITERS)))
        yield connection


def prepare(engine: Engine) -> bool:
    """Create or migrate the tables; returns whether they were created. What an older database holds is copied first: a
    SQLite file beside it, PostgreSQL's tables to a schema (``backup_name``).

    Raises:
        UserError: the database is newer than this program, is not one of ours, or is damaged.
        MissingError: it cannot be reached or written.
    """
    file = sqlite_file(engine.url)
    if file is not None:
        with atomic.writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
    with reading(engine) as connection:
        revision = _revision(connection)
    if revision == revisions()[-1]:
        return False
    if revision is None and file is not None:
        _write_ahead(engine, file)
    with writing(engine) as connection:
        revision = _revision(connection)  # another process may have been faster
        if revision == revisions()[-1]:
            return False
        if revision is not None and file is not None:
            _copy(file, Path(backup_name(engine.url, revision)))
        elif revision is not None:
            _copy_tables(connection, backup_name(engine.url, revision))
        _upgrade(connection)
    return revision is None


def backup_name(url: URL, revision: str) -> str:
    """Where the copy of a database at ``revision`` is: a file, or a schema of the same PostgreSQL database."""
    file = sqlite_file(url)
    return f"mibench_backup_{revision}" if file is None else str(file.with_name(f"{file.name}.backup-{revision}"))


def revision_of(engine: Engine) -> str | None:
    """The migration the database is at; None when it is empty or not there."""
    file = sqlite_file(engine.url)
    if file is not None and not file.exists():
        return None
    with reading(engine) as connection:
        return _revision(connection)


def _copy_tables(connection: Connection, schema: str) -> None:
    """Copy every table to a schema, in the transaction that migrates them; an older copy of that name is replaced."""
    tables = sa.inspect(connection).get_table_names()
    connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
    connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    for table in tables:
        connection.exec_driver_sql(f'CREATE TABLE {schema}."{table}" AS TABLE "{table}"')


def revisions() -> list[str]:
    """The numbers of the migrations this program knows, oldest first."""
    return sorted(file.name[:4] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def sqlite_file(url: URL) -> Path | None:
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def _revision(connection: Connection) -> str | None:
    """The migration the database is at; None when it is empty."""
    name = connection.engine.url.render_as_string()
    tables = sa.inspect(connection).get_table_names()
    if "alembic_version" not in tables:
        if tables and connection.dialect.name == "sqlite":
            raise UserError(f"{name} is not a mibench database (its tables: {', '.join(tables)}).")
        return None
    revision = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    if revision is not None and revision not in revisions():
        raise UserError(
            f"The database {name} was written by a newer version of mibench (revision {revision}; this one "
            f"knows up to {revisions()[-1]}). Type 'pip install --upgrade mibench', or set MIBENCH_DB to "
            "another database."
        )
    return revision


def _upgrade(connection: Connection) -> None:
    from alembic import command  # takes a while to import and is rarely needed
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _write_ahead(engine: Engine, file: Path) -> None:
    """Switch a new file to write-ahead logging, which needs shared memory and so a local disk."""
    if _on_network(file):
        return
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            with sentences(engine.url), closing(sqlite3.connect(file, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
            return
        except UserError as error:  # the switch does not wait for other processes by itself
            if "another process" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _on_network(file: Path) -> bool:
    """Whether ``file`` lies on a disk of another machine, as far as Linux tells."""
    try:
        mounts = [line.split(" ")[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return False
    folder = file.parent.resolve()
    holding = [(point, kind) for point, kind in mounts if folder.is_relative_to(point.replace("\\040", " "))]
    return max(holding, key=lambda mount: len(mount[0]), default=("", ""))[1] in NETWORK


def copied(file: Path, folder: Path) -> Path:
    """A copy of a SQLite file, if it is there, and of its write-ahead log, in ``folder``: byte by byte, as SQLite
    itself must write beside a file to read it. Raises MissingError if it is there and cannot be read."""
    for suffix in ("", "-wal"):
        try:
            shutil.copyfile(file.with_name(file.name + suffix), folder / f"{file.name}{suffix}")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise MissingError(f"The database {file} cannot be read: {error.strerror}.") from None
    return folder / file.name


def _copy(file: Path, target: Path) -> None:
    """Copy a SQLite file as other connections see it, with what is still in its write-ahead log."""
    with (
        atomic.write_file(target) as scratch,
        closing(sqlite3.connect(file)) as source,
        closing(sqlite3.connect(scratch)) as copy,
    ):
        source.backup(copy)


@contextmanager
def sentences(url: URL) -> Iterator[None]:
    """Turn what a user can mend (a damaged, locked, full or unreachable database) into a sentence."""
    name = url.render_as_string()
    try:
        yield
    except (exc.IntegrityError, exc.ProgrammingError):
        raise
    except (exc.DBAPIError, sqlite3.DatabaseError) as error:
        cause = error.orig if isinstance(error, exc.DBAPIError) else error
        if isinstance(cause, sqlite3.DatabaseError):
            raise _sqlite_sentence(name, cause) from error
        if isinstance(error, exc.OperationalError):
            raise MissingError(
                f"The database {name} does not answer: {cause}. Start it, or correct or unset MIBENCH_DB."
            ) from error
        raise
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"The database {name} is damaged ({error}). {REBUILD}") from error


def _sqlite_sentence(name: str, error: sqlite3.DatabaseError) -> Exception:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "decode" in str(error):
        return UserError(f"The database {name} is damaged ({error}). {REBUILD}")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UserError(f"The database {name} is in use by another process ({error}). Try again later.")
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR):
        return MissingError(
            f"Cannot use the database {name}: {error}. Free some space or make its folder writable, or set "
            "MIBENCH_HOME to another folder; what was stored before is intact."
        )
    return error


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
