"""What the engine does for every method: it names none, and hides none from another."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plugins import DEFENSES, ENGINE, PLUGINS, Bench, stochastic
from torch import Tensor

from mibench.contracts import Stream
from mibench.data import TrackData, load
from mibench.images.augment import erase_rectangles
from mibench.images.pixels import read_png
from mibench.planning.plan import Stage
from mibench.running.order import Order
from mibench.running.request import BASELINE
from mibench.stages import features
from mibench.stages import job as job_module
from mibench.store.artifacts import STATE
from mibench.store.manifest import file_sha256

STOCHASTIC = [name for name in DEFENSES if stochastic(name)]
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")


def test_engine_names_no_plugin() -> None:
    """No comparison with, and no branch on, a plugin's id; the baseline is named once, in the runner."""
    ids = {name for _, name in PLUGINS}
    found = []
    for path in sorted(ENGINE.rglob("*.py")):
        if path.parent.name == "priors":
            continue
        text = path.read_text()
        found += [f"{path.relative_to(ENGINE)}:{line}: {name!r}" for line, name in branches(ast.parse(text), ids)]
    allowed = [
        line for line in found if line.split(":")[0] in ("cli/common.py", "publish/build.py") and "'none'" in line
    ]
    assert all("images" in source_line(line) for line in allowed), allowed  # --images none
    assert [line for line in found if line not in allowed] == []
    baseline = [path for path in ENGINE.rglob("*.py") if f'BASELINE = "{BASELINE}"' in path.read_text()]
    assert [path.name for path in baseline] == ["request.py"]


def source_line(place: str) -> str:
    name, number, _ = place.split(":", 2)
    return (ENGINE / name).read_text().splitlines()[int(number) - 1]


def branches(tree: ast.AST, ids: set[str]) -> Iterator[tuple[int, str]]:
    """Where the code compares with one of ``ids``: ==, in, match, startswith, a subscript or ``get`` of one."""
    for node in ast.walk(tree):
        values: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            values = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            values = [node.value]
        elif isinstance(node, ast.Subscript) and not is_annotation(node):
            values = [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            values = list(node.args) if node.func.attr in ("startswith", "endswith", "get", "removeprefix") else []
        for value in values:
            for inner in ast.walk(value):
                if isinstance(inner, ast.Constant) and inner.value in ids:
                    yield node.lineno if hasattr(node, "lineno") else inner.lineno, inner.value


def is_annotation(node: ast.Subscript) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "Literal"


def test_branches_on_plugins_are_seen() -> None:
    for text in ('x == "re"', 'if x in ("re", 1): pass', 'x["re"]', 'x.get("re")', 'match x:\n case "re": pass'):
        assert list(branches(ast.parse(text), {"re"})), text
    assert not list(branches(ast.parse('x == "mean"\nre.match("a", b)'), {"re"}))


def test_evaluation_imports_no_plugin(bench: Bench, tmp_path: Path) -> None:
    plan = bench.plan()
    bench.compute(plan, "utility")
    stages = bench.compute(plan, "invert")
    bench.compute(plan, "evaluator")
    order = Order(home=bench.home, device="cpu", stage=stages["evaluate"]).write(tmp_path / "order.json")
    code = (
        "import json, sys; from pathlib import Path; from mibench.contracts import Oracle\n"
        "from mibench.running import worker; from mibench.running.order import Order\n"
        "Oracle.__init__ = None\n"  # evaluating asks no target
        f"worker.compute(Order.read(Path({str(order)!r})))\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    modules = json.loads(done.stdout.splitlines()[-1])
    assert "mibench.stages.evaluate" in modules
    assert [name for name in modules if name.startswith(("mibench_plugins", "mibench.priors"))] == []
    check_evaluation(bench, stages)


def check_evaluation(bench: Bench, stages: dict[str, Stage]) -> None:
    folder, manifest = bench.result(stages["evaluate"])
    table = json.loads((folder / "images.json").read_text())
    assert set(manifest.result["metrics"]) == set(bench.track.metrics)
    for name, metric in manifest.result["metrics"].items():
        assert (metric["value"] is None) == (metric["reason"] is not None), name
    assert sorted({entry["label"] for entry in table}) == bench.track.identities
    correct = np.mean([entry["correct"] for entry in table])
    assert manifest.result["metrics"]["att1"]["value"] == pytest.approx(correct)


def test_the_feature_space_is_that_of_the_served_target(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Distances again by hand from the parents' files; one seed erases alike whatever the defense; no image is left."""
    drawn: dict[str, list[Tensor]] = {}
    for name in (BASELINE, *[name for name in DEFENSES if name != BASELINE][:1], *STOCHASTIC[:1]):
        stages = bench.compute(bench.plan(name), "features")
        folder, manifest = bench.result(stages["features"])
        assert set(manifest.outputs) == {"features.json"}
        rows = json.loads((folder / "features.json").read_text())["identities"]
        assert [row["label"] for row in rows] == bench.track.identities
        job = bench.job(stages["features"], tmp_path / name)
        job.workdir.mkdir(exist_ok=True)
        net, private = job.target(), job.private_train()
        made = bench.result(stages["invert"])[0]
        entries = json.loads((made / "images.json").read_text())
        with torch.no_grad():
            own = net(private.images[:], Stream(0)).features.double()
            found = net(torch.stack([read_png(made / e["file"], 1) for e in entries]), Stream(0)).features.double()
        for row in rows:
            mine = [found[i] for i, entry in enumerate(entries) if entry["label"] == row["label"]]
            near = [min(float((f - o).norm()) for o in own[private.labels == row["label"]]) for f in mine]
            assert row["values"]["distance_private"] == pytest.approx(np.mean(near), rel=1e-4)
            assert row["counts"] == {"private": 3, "erased": 30, "reconstructed": len(mine)}
        mean = np.mean([row["values"]["distance_private"] for row in rows])
        assert manifest.result["values"]["distance_private"]["value"] == pytest.approx(mean)

        kept = drawn[name] = []

        def spy(images: Tensor, *given: Any, keep: list[Tensor] = kept, **more: Any) -> Tensor:
            keep.append(erase_rectangles(images, *given, **more))
            return keep[-1]

        monkeypatch.setattr(features, "erase_rectangles", spy)
        assert features.run(job) == manifest.result
        monkeypatch.undo()
    first = drawn[BASELINE]
    assert len(first) == features.DRAWS and not torch.equal(first[0], first[1])
    for other in drawn.values():
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    share = torch.stack([(a != private.images[:]).float().mean((1, 2, 3)) for a in first])
    assert float(share.min()) > 0.05 and float(share.max()) < 0.45


@pytest.mark.parametrize("kind", ["target", "evaluator", "prior"])
def test_what_loading_data_does_to_the_global_generator_moves_no_number(
    bench: Bench, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stage on a machine decodes the images itself, the next one finds them decoded."""
    stage = bench.compute(bench.plan(), kind)[kind]

    def careless(*arguments: Any) -> TrackData:
        torch.rand(5)
        return load(*arguments)

    monkeypatch.setattr(job_module, "load", careless)
    (tmp_path / STATE).mkdir()
    import_module(f"mibench.stages.{kind}").run(bench.job(stage, tmp_path))
    assert file_sha256(tmp_path / "model.safetensors") == bench.hashes(stage)["model.safetensors"]["sha256"]
