"""The artefact store: finished in ``store/<kind>/<key[:2]>/<key>/``, unfinished in ``work/<key>/``.

A stage is computed like this, in any number of processes at once::

    with store.claim(kind, key) as claim:
        if claim.manifest is None:
            ...  # write files to claim.workdir, resumable state to claim.workdir / STATE
            store.publish(kind, key, claim.workdir, manifest)
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from mibench.errors import MissingError
from mibench.store import atomic, locks
from mibench.store.manifest import FILE, Damaged, Manifest, check_name, dumps, file_sha256, read, safe_file

__all__ = ["STATE", "Claim", "Damaged", "Manifest", "Store", "home"]

STATE = "state"  # folder in a work folder for what a resumed stage needs; never published


def home() -> Path:
    """The folder that holds everything the program stores: ``MIBENCH_HOME`` or the user's data folder. Raises
    MissingError where that cannot be a folder."""
    path = Path(os.environ.get("MIBENCH_HOME") or platformdirs.user_data_dir("mibench")).expanduser().absolute()
    there = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    if not there.is_dir():
        what = f"a link to {there.readlink()}, which is no folder" if there.is_symlink() else "no folder"
        raise MissingError(f"{path} cannot hold what is stored: {there} is {what}. Set MIBENCH_HOME to a folder.")
    return path


@dataclass(frozen=True)
class Claim:
    """The exclusive right to compute one stage. ``manifest`` is set when there is nothing left to compute."""

    workdir: Path
    manifest: Manifest | None
    damaged: str | None  # why an artefact that was there has to be computed again


class Store:
    """The artefacts below one ``home`` folder. Nothing is created before something is written."""

    def __init__(self, home: Path) -> None:
        self.home = Path(home)
        self.root = self.home / "store"
        self.work = self.home / "work"

    def path(self, kind: str, key: str) -> Path:
        """The folder of an artefact, whether it exists or not; ``ValueError`` for a name that is not one."""
        check_name(kind, key)
        path = self.root / kind / key[:2] / key
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise ValueError(f"{path} leads outside the store {self.root}.")
        return path

    def workdir(self, key: str) -> Path:
        """Where stage ``key`` is computed; its content survives a kill. Only the claim's holder writes."""
        check_name("work", key)
        return self.work / key

    def manifest(self, kind: str, key: str, verify: bool = False) -> Manifest | None:
        """The manifest of a stored artefact, or None. ``verify`` also hashes every file.

        Raises:
            Damaged: the artefact was not whole. It is moved to ``damaged/``, so that the next call returns
                None (it stays while somebody holds the claim: that one deals with it).
        """
        path = self.path(kind, key)
        if not path.exists():
            return None
        try:
            return read(path, kind, key, verify)
        except Damaged:
            with suppress(OSError, MissingError), self._lock(key, wait=False) as locked:
                if locked:
                    self._whole_or_aside(kind, key, verify)
            raise

    @contextmanager
    def claim(self, kind: str, key: str, on_wait: Callable[[], None] | None = None) -> Iterator[Claim]:
        """Hold the exclusive right to compute a stage; waits while another process holds it.

        ``on_wait`` is called once before waiting. A publication that a kill interrupted is completed here.
        """
        path, workdir = self.path(kind, key), self.workdir(key)
        with self._lock(key, on_wait=on_wait):
            yield self._claimed(kind, key, path, workdir)

    def publish(self, kind: str, key: str, workdir: Path, manifest: Manifest) -> Path:
        """Make the files in ``workdir`` the artefact ``key``; hashes them and writes the manifest last.

        Resumable state and temporary files are dropped. If the artefact is already there and whole, it stays.
        """
        path = self.path(kind, key)
        if (manifest.kind, manifest.key) != (kind, key):
            raise ValueError(f"The manifest is for {manifest.kind} {manifest.key}, not for {kind} {key}.")
        with atomic.writing(path):
            outputs = dict(sorted(self._outputs(workdir)))
            atomic.write_text(workdir / FILE, dumps(replace(manifest, outputs=outputs)))
            return self._install(kind, key, workdir)

    def held(self, key: str) -> bool:
        """Whether some process is computing stage ``key`` on this machine now. A guess: it may change at once."""
        return locks.held(self.work / f"{key}.lock")

    def sweep(self, done: Container[str]) -> None:
        """Remove locks of finished stages, left by processes that were killed right after publishing."""
        for file in self.work.glob("*.lock"):
            if file.stem in done:
                with self._lock(file.stem, wait=False):
                    pass  # whoever lets go of it removes it

    def discard(self, kind: str, key: str) -> bool:
        """Move an artefact out of the way, to ``discarded/``, so that it is computed again; whether there was one."""
        path = self.path(kind, key)
        with self._lock(key):
            if not path.exists():
                return False
            self._set_aside("discarded", kind, key)
        return True

    def manifests(self, kind: str = "*") -> Iterator[Manifest]:
        """Every whole artefact (of one kind), sorted by kind and key; damaged ones are left out (see ``damaged``)."""
        for own, key in self._names(kind):
            with suppress(Damaged):
                yield read(self.path(own, key), own, key)

    def damaged(self, verify: bool = False) -> list[str]:
        """One sentence for each artefact in the store that is not whole; moves nothing."""
        sentences = []
        for kind, key in self._names():
            try:
                read(self.path(kind, key), kind, key, verify)
            except Damaged as error:
                sentences.append(str(error))
        return sentences

    def _names(self, only: str = "*") -> list[tuple[str, str]]:
        names = []
        for folder in sorted(self.root.glob(f"{only}/??/*")):
            kind, key = folder.parts[-3], folder.name
            with suppress(ValueError):
                if self.path(kind, key) == folder:
                    names.append((kind, key))
        return names

    def _claimed(self, kind: str, key: str, path: Path, workdir: Path) -> Claim:
        """What is to be done, seen while holding the lock."""
        manifest, problem = self._whole_or_aside(kind, key)
        if manifest is None and (workdir / FILE).exists():
            with suppress(Damaged):
                read(workdir, kind, key, verify=True)
                self._install(kind, key, workdir)
                manifest, problem = read(path, kind, key), None
        if manifest is None:
            with atomic.writing(workdir):
                workdir.mkdir(parents=True, exist_ok=True)
                (workdir / FILE).unlink(missing_ok=True)
        return Claim(workdir, manifest, problem)

    def _whole_or_aside(self, kind: str, key: str, verify: bool = False) -> tuple[Manifest | None, str | None]:
        """The artefact if it is whole; else it is moved to ``damaged/`` and the reason returned."""
        path = self.path(kind, key)
        if not path.exists():
            return None, None
        try:
            return read(path, kind, key, verify), None
        except Damaged as error:
            self._set_aside("damaged", kind, key)
            return None, str(error)

    def _set_aside(self, folder: str, kind: str, key: str) -> None:
        """Move an artefact to a folder of the home, under a name that nothing else has there."""
        aside = self.home / folder / f"{kind}-{key[:16]}-{secrets.token_hex(3)}"
        with atomic.writing(aside):
            aside.parent.mkdir(parents=True, exist_ok=True)
            self.path(kind, key).rename(aside)

    def _outputs(self, workdir: Path) -> Iterator[tuple[str, dict[str, str | int]]]:
        for parent, folders, names in os.walk(workdir):
            if Path(parent) == workdir:
                folders[:] = [name for name in folders if name != STATE]
                names = [name for name in names if name != FILE]
            for name in names:
                file = Path(parent, name)
                relative = file.relative_to(workdir).as_posix()
                if atomic.TEMPORARY.fullmatch(name):
                    file.unlink()
                elif not safe_file(relative) or not file.resolve().is_relative_to(workdir.resolve()):
                    raise ValueError(f"{file} cannot be stored: it leads outside its folder.")
                else:
                    yield relative, {"sha256": file_sha256(file), "bytes": file.stat().st_size}

    def _install(self, kind: str, key: str, workdir: Path) -> Path:
        """Rename a work folder that has its manifest into the store, unless a whole artefact is there: somebody without
        a claim was faster."""
        path = self.path(kind, key)
        shutil.rmtree(workdir / STATE, ignore_errors=True)
        with atomic.writing(path):
            atomic.move_folder(workdir, path, keep=lambda: self._whole_or_aside(kind, key)[0] is not None)
        shutil.rmtree(workdir, ignore_errors=True)
        return path

    @contextmanager
    def _lock(self, key: str, wait: bool = True, on_wait: Callable[[], None] | None = None) -> Iterator[bool]:
        """Hold ``work/<key>.lock``, which goes with the work folder; yields whether it is held, which without ``wait``
        can be False."""
        file, workdir = self.work / f"{key}.lock", self.workdir(key)
        taken = locks.exclusive(file, wait=wait, on_wait=on_wait, remove=lambda: not workdir.exists())
        with ExitStack() as stack:
            with atomic.writing(file):
                held = stack.enter_context(taken)
            yield held
