"""`mibench run --track my.yaml`, from photos in folders to results, as an engineer types it."""

from __future__ import annotations

import json
from pathlib import Path

import trees
from tiny import Cli

FILE = """
root: photos
resolution: 32
channels: 1
preset: tiny
target: {arch: convnet, epochs: 2, batch: 8, lr: 0.003, weight_decay: 0.0}
evaluator: {arch: small_resnet, epochs: 2, batch: 8, lr: 0.003, weight_decay: 0.0}
attack: {identities: all, images_per_identity: 1}
metrics: [nat1, att1]
"""


def test_own_photos_from_folders_to_results(tmp_path: Path, tiny_root: Path) -> None:
    cli = Cli(tmp_path / "home", tiny_root)
    trees.folder(tmp_path / "photos", {"ann": 6, "bob": 6, "cyd": 6})
    track = tmp_path / "my.yaml"
    track.write_text(FILE)
    options = ("--track", str(track), "--device", "cpu", "--attack", "miface")
    planned = cli("plan", *(o for o in options if o not in ("--device", "cpu")), "--json")
    assert "not decoded yet" in planned.stderr and len(json.loads(planned.stdout)["missing"]) == 1
    answer = json.loads(cli("run", *options, "--json").stdout)
    (run,) = answer["runs"]
    assert (run["track"], run["status"], run["metrics"]["att1"]["n"]) == ("my", "done", 3)
    again = json.loads(cli("run", *options, "--json").stdout)
    assert again["runs"][0]["cached"] and again["runs"][0]["run"] == run["run"]
    assert str(track) in cli("show", run["run"]).stdout

    refused = cli("run", "--track", str(track), "--device", "cpu", "--attack", "ppa", "--jobs", "1", code=3)
    assert "has no public images" in refused.stderr + refused.stdout
    trees.save(tmp_path / "photos" / "ann" / "7.png", 70, (50, 50))
    changed = json.loads(cli("run", *options, "--json").stdout)
    assert changed["runs"][0]["run"] != run["run"]


def test_a_track_on_a_set_that_is_not_here(tmp_path: Path, tiny_root: Path) -> None:
    cli = Cli(tmp_path / "home", tiny_root)
    track = tmp_path / "paper.yaml"
    track.write_text("source: celeba64-gmi\nprivate: {identities: 1000}\n")
    planned = cli("plan", "--track", str(track), "--attack", "miface")
    assert "7 to do" in planned.stdout and "mibench data prepare celeba64-gmi --root DIR" in planned.stderr
    refused = cli("run", "--track", str(track), "--attack", "miface", "--device", "cpu", code=3)
    assert "needs celeba64-gmi, which is not prepared here" in refused.stderr and "start" not in refused.stderr
