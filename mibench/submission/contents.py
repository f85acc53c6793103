"""A submission that was read: its index, the stages' manifests, and which stage plays which role in a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mibench.keys import digest
from mibench.records import RunRecord
from mibench.store.manifest import Manifest, file_sha256
from mibench.submission import model
from mibench.submission.layout import INDEX, Limits, Refused, check_places, place_of, shown, walk
from mibench.submission.strict import check_form, read_header, read_json


@dataclass
class Submission:
    """``stages`` by key; ``records`` as the index has them."""

    folder: Path
    index: model.Index
    stages: dict[str, Manifest] = field(default_factory=dict)
    records: list[RunRecord] = field(default_factory=list)

    def roles(self, record: RunRecord) -> dict[str, Manifest]:
        """The stages of a run by kind."""
        return {line.kind: self.stages[line.key] for line in record.stages}


def check_files(folder: Path, limits: Limits) -> str:
    """Names, kinds, sizes and first bytes of all files; every safetensors header."""
    sizes = walk(folder, limits)
    check_places(sizes, limits)
    for name in sizes:
        place = place_of(name)
        assert place is not None
        check_form(folder / name, name, place.form)
        if place.form == "safetensors":
            read_header(folder / name, name)
    return f"{len(sizes)} files, {sum(sizes.values()):,} bytes; only JSON, safetensors, Python source and PNG"


def read_index(folder: Path) -> model.Index:
    """``submission.json``; its runs are plain objects still."""
    return model.read(model.Index, read_json(folder / INDEX, INDEX), INDEX)


def check_hashes(sent: Submission, limits: Limits) -> str:
    """The files are those that the index lists, with the sizes and hashes that it lists."""
    listed = {file.path: file for file in sent.index.files}
    if len(listed) != len(sent.index.files):
        raise Refused(f"{INDEX} lists a file twice.")
    there = walk(sent.folder, limits).keys() - {INDEX}
    if extra := sorted(there - listed.keys()):
        raise Refused(f"{shown(extra[0])} is not listed in {INDEX}. Remove it, or pack again.")
    if lacking := sorted(listed.keys() - there):
        raise Refused(f"{shown(lacking[0])} is listed in {INDEX} but not there. Pack again.")
    for name, file in listed.items():
        path = sent.folder / name
        if path.stat().st_size != file.bytes or file_sha256(path) != file.sha256:
            raise Refused(f"{name} is not the file that {INDEX} lists: size or SHA-256 differ. Pack again.")
    return f"{len(listed)} files have the sizes and SHA-256 that are listed"


def read_stages(sent: Submission) -> str:
    """Read the manifests: names, checksums, shapes."""
    for path in sorted((sent.folder / "stages").glob("*.json")):
        name = f"stages/{path.name}"
        data = read_json(path, name)
        if not isinstance(data, dict) or data.pop("checksum", None) != digest(data):
            raise Refused(f"{name} does not match its own checksum: it was changed after it was computed.")
        stage = model.read_stage(data, name)
        if path.name != f"{stage.kind}-{stage.key}.json":
            raise Refused(f"{name} is the manifest of {shown(stage.kind)} {stage.key}.")
        sent.stages[stage.key] = stage
    return f"{len(sent.stages)} manifests are whole"


def read_records(sent: Submission) -> str:
    """Read the runs' records, and see that the public part of each says the same."""
    for number, run in enumerate(sent.index.runs):
        name = f"{INDEX}: run {number + 1}"
        if not isinstance(run.get("record"), dict):
            raise Refused(f"{name} has no record.")
        record = model.read_record(run["record"], name)
        if record.published() != {**run, "record": record.to_json()}:
            raise Refused(f"{name} ({record.run}) says one thing beside its record and another in it. Pack again.")
        sent.records.append(record)
    ids = [record.run for record in sent.records]
    if len(set(ids)) != len(ids):
        raise Refused(f"{INDEX} has a run twice.")
    return f"{len(ids)} runs"
