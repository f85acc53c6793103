"""A defense that changes only what is served: one target for all its settings, and no row that would mislead."""

from __future__ import annotations

import json
from pathlib import Path

from tiny import Cli


def test_other_settings_of_serving_train_no_target_anew(tiny_root: Path, tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home", tiny_root)
    asked = [word for epsilon in (0.001, 5) for word in ("--defense", f"ssd[epsilon={epsilon}]")]
    done = cli("run", "--track", "tiny", "--device", "cpu", "--json", *asked, "--attack", "mirror_black")
    assert done.returncode == 0, done.stderr
    runs = {(run["defense_label"], run["attack"]): run for run in json.loads(done.stdout)["runs"]}
    assert {key for key in runs if key[0] != "none"} == {(f"ssd[epsilon={e}]", "mirror_black") for e in ("0.001", "5")}
    assert runs["ssd[epsilon=5]", "mirror_black"]["defense_params"]["epsilon"] == 5
    stored = {kind: list(cli.home.glob(f"store/{kind}/*/*/manifest.json")) for kind in ("target", "serve", "utility")}
    assert {kind: len(paths) for kind, paths in stored.items()} == {"target": 2, "serve": 2, "utility": 3}
    params = [json.loads(path.read_text())["params"] for path in stored["target"]]
    assert all("epsilon" not in each and "temperature" not in each for each in params)
    logits = {json.loads(path.read_text())["result"]["largest_logit"] for path in stored["utility"]}
    assert len(logits) == 3, "each answers in its own way"
    run = runs["ssd[epsilon=5]", "mirror_black"]["run"]
    packed = cli("submit", "pack", run, "--out", str(tmp_path / "sent"), "--yes")
    assert packed.returncode == 0, packed.stderr
    verified = cli("submit", "verify", str(tmp_path / "sent"))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    planned = cli("plan", "--track", "tiny", *asked, "--attack", "mirror_black", "--attack", "gmi")
    said = " ".join((planned.stdout + planned.stderr).split())
    assert "ssd protects against access 'scores'; an attack with access 'white_box' goes past it" in said
