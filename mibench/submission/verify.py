"""Verify a submission: a list of checks, each passed or refused with the reason. See docs/submitting.md for what they
cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mibench.errors import MissingError, UserError
from mibench.protocol.tracks import Track
from mibench.registry import Registry
from mibench.store.scratch import scratch
from mibench.submission import contents, figures, keys
from mibench.submission.archives import unpack
from mibench.submission.contents import Submission
from mibench.submission.layout import Limits, Refused, shown
from mibench.submission.methods import check_plugins


@dataclass(frozen=True)
class Check:
    """One line of the answer."""

    name: str
    ok: bool
    message: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """All checks up to the first that refuses; ``submission`` is None if one did."""

    checks: tuple[Check, ...]
    submission: Submission | None

    @property
    def ok(self) -> bool:
        return self.submission is not None


@contextmanager
def opened(path: Path, limits: Limits) -> Iterator[Path]:
    """The folder of a submission, of an archive an unpacked copy that is gone afterwards. Raises Refused."""
    if path.is_dir():
        yield path
        return
    if not path.is_file():
        raise MissingError(f"There is no {path}. Expected a folder or archive that `mibench submit pack` wrote.")
    with scratch("submission") as folder:
        (inside := folder / "open").mkdir()
        yield unpack(path, inside, limits)


def verify(folder: Path, registry: Registry, limits: Limits = Limits()) -> Verdict:  # noqa: B008
    """Check a folder. Nothing in it is imported, unpickled or run, and nothing is written."""
    done: list[Check] = []
    state: dict[str, Submission] = {}
    tracks: dict[str, Track] = {}

    def sent() -> Submission:
        return state["submission"]

    def index() -> str:
        state["submission"] = Submission(folder, contents.read_index(folder))
        return "it says what it holds, in the form of schema 1"

    def stages() -> str:
        said = contents.read_stages(sent())
        tracks.update(keys.tracks(sent(), registry))
        return said

    def runs() -> str:
        contents.read_records(sent())
        return keys.check_runs(sent(), _all(sent(), tracks), registry)

    steps: tuple[tuple[str, Callable[[], str | tuple[str, list[str]]]], ...] = (
        ("files", lambda: contents.check_files(folder, limits)),
        ("index", index),
        ("hashes", lambda: contents.check_hashes(sent(), limits)),
        ("stages", stages),
        ("keys", lambda: keys.check_keys(sent(), tracks)),
        ("runs", runs),
        ("outputs", lambda: figures.check_outputs(sent())),
        ("methods", lambda: check_plugins(sent(), registry)),
        ("versions", lambda: keys.check_versions(sent())),
        ("records", lambda: figures.check_records(sent(), tracks)),
        ("figures", lambda: figures.check_figures(sent(), tracks)),
    )
    for name, step in steps:
        try:
            said = step()
        except Refused as error:
            done.append(Check(name, False, str(error)))
        except (MissingError, KeyboardInterrupt):
            raise
        except UserError as error:
            done.append(Check(name, False, str(error)[:500]))
        except Exception as error:  # of a file that no check has thought of: refused, whatever it is
            done.append(Check(name, False, f"It cannot be checked ({type(error).__name__}: {shown(error)})."))
        else:
            text, notes = (said, []) if isinstance(said, str) else said
            done.append(Check(name, True, text, tuple(notes)))
            continue
        return Verdict(tuple(done), None)
    return Verdict(tuple(done), sent())


def _all(sent: Submission, tracks: dict[str, Track]) -> dict[str, Track]:
    for record in sent.records:
        if record.track not in tracks:
            raise Refused(f"Run {record.run} is of track {shown(record.track)}, which the submission does not declare.")
    return tracks


def verify_path(path: Path, registry: Registry, limits: Limits = Limits()) -> Verdict:  # noqa: B008
    """Check a folder or an archive; an archive's files are gone afterwards."""
    try:
        with opened(path, limits) as folder:
            return verify(folder, registry, limits)
    except Refused as error:
        return Verdict((Check("archive", False, str(error)),), None)
