"""Tracks whose images are a prepared data set or a folder: which sets they need, what they find, and their split.

Planning needs no data: a track takes the split that its file pins, else that of the set prepared here, else none, and
then nothing can be computed yet.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mibench.boundary import printable
from mibench.data import cache
from mibench.data import overlap as copies
from mibench.data.sets import FOLDER, NONE, SETS, data_set
from mibench.data.sets import folder as folders
from mibench.data.sets.base import DataSet
from mibench.data.sets.build import build, place
from mibench.data.sets.decoding import Progress
from mibench.data.sets.prepared import facts, not_prepared
from mibench.errors import MissingError, UserError
from mibench.keys import digest
from mibench.protocol.tracks import Track
from mibench.store.atomic import write_text


@dataclass(frozen=True)
class Needed:
    """A data set that a track needs, and where its files are (folders only)."""

    data_set: DataSet
    root: Path | None = None


def is_tracked(track: Track) -> bool:
    """Whether the track's images come from a data set or a folder, and not with a package."""
    return track.source in SETS or track.source == FOLDER


def private_set(track: Track) -> Needed:
    """The set of the track's private images. Raises UserError where the track asks what the set does not have."""
    if track.source == FOLDER:
        need = Needed(_folder(track, track.root, "root", _split(track)), Path(track.root or "."))
    else:
        need = Needed(data_set(track.source))
        _nothing_chosen(track)
    _fits(track, need.data_set)
    known = need.data_set
    if track.source != FOLDER and (known.publish_private < track.publish_private or known.sensitive > track.sensitive):
        raise UserError(
            f"Track {track.id!r} says sensitive: {track.sensitive} and publish_private: {track.publish_private}, but "
            f"its data set {known.name} says {known.sensitive} and {known.publish_private} ({known.licence})."
        )
    return need


def public_set(track: Track) -> Needed | None:
    """The other set that the track's public images come from, or None: the private set's own, or none at all."""
    source = track.public.source or (FOLDER if track.public.root else None)
    if source in (None, NONE, track.source if track.source != FOLDER else None):
        return None
    if source == FOLDER:
        need = Needed(_folder(track, track.public.root, "public.root", None), Path(track.public.root or "."))
    else:
        need = Needed(data_set(str(source)))
    _fits(track, need.data_set)
    return need


def _folder(track: Track, root: str | None, field: str, split: folders.Split | None) -> DataSet:
    if root is None:
        raise UserError(f"Track {track.id!r} has source: folder but no {field}. Add `{field}: DIR` to its file.")
    return folders.folder(Path(root), track.resolution, "RGB" if track.channels == 3 else "L", split, track.decode)


def _split(track: Track) -> folders.Split:
    private, share = track.private, track.public.class_share
    return folders.Split(
        private.train_per_identity,
        private.test_per_identity,
        private.test_share or 0.2,
        share or 0.0,
        private.class_order,
        Path(private.test_root) if private.test_root else None,
    )


def _nothing_chosen(track: Track) -> None:
    chosen = {
        "private.train_per_identity": track.private.train_per_identity,
        "private.test_per_identity": track.private.test_per_identity,
        "private.test_share": track.private.test_share,
        "private.test_root": track.private.test_root,
        "private.class_order": None if track.private.class_order == "lexicographic" else track.private.class_order,
        "decode": None if track.decode == "photo" else track.decode,
        "public.class_share": track.public.class_share,
        "root": track.root,
    }
    wrong = [name for name, value in chosen.items() if value is not None]
    if wrong:
        raise UserError(
            f"Track {track.id!r} sets {', '.join(wrong)}, but the split of its data set {track.source} follows from "
            f"the set's own rule. Remove it."
        )


def _fits(track: Track, data_set: DataSet) -> None:
    side, channels = data_set.views["target"].side, data_set.channels
    if (side, channels) != (track.resolution, track.channels):
        raise UserError(
            f"Track {track.id!r} has resolution {track.resolution} and {track.channels} channel(s); its data set "
            f"{data_set.name} has {side} and {channels}."
        )


def resolve(track: Track, home: Path) -> Track:
    """The track with the split of the data prepared here, where its file pins none."""
    if not is_tracked(track):
        return track
    private, public = private_set(track), public_set(track)
    changes: dict[str, Any] = {}
    known = facts(private.data_set.name, home)
    if track.split is None and known:
        changes["split"] = known["split"]
    if public is not None and track.public.split is None:
        known = facts(public.data_set.name, home)
        if known:
            changes["public"] = track.public.model_copy(update={"split": known["split"]})
    return track.model_copy(update=changes)


def missing(track: Track, home: Path) -> dict[str, str]:
    """What the track needs that is not prepared here, in sentences by data set."""
    if not is_tracked(track):
        return {}
    needs = [need for need in (private_set(track), public_set(track)) if need is not None]
    lacking = [need for need in needs if facts(need.data_set.name, home) is None]
    return {
        need.data_set.name: not_prepared(need.data_set, track.id)
        if need.root is None
        else _not_decoded(track, need.root)
        for need in lacking
    }


def _not_decoded(track: Track, root: Path) -> str:
    how = _prepare_again(track)
    return f"The images in {root} of track {track.id!r} are not decoded yet. `mibench run` does it. Or type: {how}"


def _prepare_again(track: Track) -> str:
    return f"mibench data prepare {shlex.quote(track.file or track.id)}"


def prepare(
    track: Track,
    home: Path,
    jobs: int = 1,
    progress: Progress | None = None,
    allow_duplicates: bool = False,
    skip_damaged: bool = False,
) -> list[str]:
    """Decode the track's folders, if it has any and they changed; how many files of each were read, skipped and why,
    in sentences. Named sets need their root: not done here. Raises MissingError if public images are copies of private
    ones, unless the track allows them."""
    said: list[str] = []
    for need in (private_set(track), public_set(track)):
        if need is not None and need.root is not None:
            name = need.data_set.name
            _, new = build(
                need.data_set,
                need.root,
                home,
                jobs=jobs,
                progress=progress,
                allow_duplicates=allow_duplicates,
                skip_damaged=skip_damaged,
                command=_prepare_again(track),
            )
            known = (facts(name, home) or {"notes": []}) if new else {"notes": []}
            left = known.get("skipped", {})
            said += known["notes"]
            said += [f"left out: {printable(need.root / path)} ({left[path]['fault'].rstrip('.')})" for path in left]
    if FOLDER in (track.source, track.public.source) or track.public.root:
        _no_copies(track, home, progress)
    return said


def _no_copies(track: Track, home: Path, progress: Progress | None) -> None:
    """Raises MissingError if public images are copies of private ones. What was compared is remembered."""
    private, public = private_set(track).data_set.name, public_set(track)
    other = public.data_set.name if public is not None else private
    places = (place(home, private), place(home, other))
    if track.copies == "allowed" or track.public.source == NONE or not all(map(cache.exists, places)):
        return
    metas = [cache.read_index(folder)["meta"] for folder in places]
    if not metas[1]["counts"].get("public"):
        return
    done = home / "cache" / "compared" / digest([meta["split"] for meta in metas] + [copies.VERSION])
    if done.is_file():
        return
    found = copies.between(*places, progress)
    if found:
        raise MissingError(copies.sentence(found, track.id))
    write_text(done, "")


@dataclass(frozen=True)
class ArrayFolders:
    """Where the track's arrays lie: ``public`` is None without public images; ``split`` names the private data."""

    private: Path
    public: Path | None
    split: str


def locate(track: Track, home: Path) -> ArrayFolders:
    """The prepared sets of the track. Raises MissingError if one is not there, damaged or not the pinned one."""
    lacking = missing(track, home)
    if lacking:
        raise MissingError("\n".join(lacking.values()))
    private, public = private_set(track), public_set(track)
    split = _sound(track, private, track.split, home)
    meta = facts(private.data_set.name, home) or {}
    people = len(meta["identities"])
    if people != track.private.identities:
        raise UserError(
            f"Track {track.id!r} has {track.private.identities} identities; {private.data_set.name} has {people}. "
            f"Change private.identities."
        )
    where = place(home, private.data_set.name)
    if public is not None:
        _sound(track, public, track.public.split, home)
        meta, other = facts(public.data_set.name, home) or {}, place(home, public.data_set.name)
    else:
        other = where
    available = meta["counts"].get("public", 0)
    if track.public.source == NONE or (public is None and not available):
        return ArrayFolders(where, None, split)
    if (track.public.images or 1) > available:
        raise UserError(
            f"Track {track.id!r} asks for {track.public.images:,} public images; "
            f"{(public or private).data_set.name} has {available:,}."
        )
    return ArrayFolders(where, other, split)


def _sound(track: Track, need: Needed, pinned: str | None, home: Path) -> str:
    folder, name = place(home, need.data_set.name), need.data_set.name
    damage = cache.problems(folder)
    again = f"mibench data prepare {name} --root DIR" if need.root is None else _prepare_again(track)
    if damage:
        raise MissingError(f"The prepared images of {name} are damaged: {' '.join(damage)} Type: {again}")
    split = str(cache.read_index(folder)["meta"]["split"])
    if pinned not in (None, split):
        raise MissingError(
            f"The data of track {track.id!r} is not what it was: expected {name} with SHA-256 {pinned}, the one "
            f"prepared here is {split}. Prepare it from the files that the track means: {again}"
        )
    return split
