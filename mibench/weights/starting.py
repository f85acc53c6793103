"""The published weights that networks start from: which file, and where it is looked for. No torch.

Nothing is downloaded while a stage runs, and nothing is replaced: weights that a recipe asks for and that are not here
are a MissingError that says where to get them. Whoever wants to start from scratch says so in the recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mibench.errors import MissingError, UserError

_TORCHVISION = "https://download.pytorch.org/models/"
_EVOLVE = "the model zoo of face.evoLVe (ZhaoJ9014/face.evoLVe, MS-Celeb-1M)"
_IR = {"input_layer": "stem", "body": "units"}


@dataclass(frozen=True)
class Start:
    """``file`` comes from ``origin``. ``names``: published names of parts to ours, those of the class if None.
    ``unused``: parts of the file that are left aside; ``fresh``: parts of the network that it does not have."""

    file: str
    origin: str
    names: Mapping[str, str] | None = None
    unused: tuple[str, ...] = ()
    fresh: tuple[str, ...] = field(default=())

    @property
    def hashed(self) -> bool:
        """Whether the file's name ends with the beginning of its SHA-256."""
        return self.origin.startswith(_TORCHVISION)


def _imagenet(file: str, origin: str = _TORCHVISION) -> Start:
    return Start(file, origin + file if origin == _TORCHVISION else origin)


STARTS: dict[tuple[str, str], Start] = {
    ("vgg16", "imagenet"): Start(
        "vgg16_bn-6c64b313.pth",
        f"{_TORCHVISION}vgg16_bn-6c64b313.pth",
        {"features": "convs"},
        ("classifier",),
        ("norm", "head"),
    ),
    ("ir152", "ms1m"): Start(
        "Backbone_IR_152_Epoch_112_Batch_2547328_Time_2019-07-13-02-59_checkpoint.pth",
        _EVOLVE,
        _IR,
        ("output_layer",),
        ("neck", "head"),
    ),
    ("facenet64", "ms1m"): Start("backbone_ir50_ms1m_epoch120.pth", _EVOLVE, _IR, ("output_layer",), ("neck", "head")),
    ("facenet112", "ms1m"): Start(
        "backbone_ir50_ms1m_epoch120.pth", _EVOLVE, _IR | {"output_layer": "neck"}, (), ("head",)
    ),
    ("resnet18", "imagenet"): _imagenet("resnet18-f37072fd.pth"),
    ("resnet34", "imagenet"): _imagenet("resnet34-b627a593.pth"),
    ("resnet50", "imagenet"): _imagenet("resnet50-11ad3fa6.pth"),
    ("resnet101", "imagenet"): _imagenet("resnet101-cd907fc2.pth"),
    ("resnet152", "imagenet"): _imagenet("resnet152-f82ba261.pth"),
    ("densenet121", "imagenet"): _imagenet("densenet121-a639ec97.pth"),
    ("densenet161", "imagenet"): _imagenet("densenet161-8d451a50.pth"),
    ("densenet169", "imagenet"): _imagenet("densenet169-b2777c0a.pth"),
    ("efficientnet_b0", "imagenet"): _imagenet("efficientnet_b0_rwightman-7f5810bc.pth"),
    ("efficientnet_b1", "imagenet"): _imagenet("efficientnet_b1-c27df63c.pth"),
    ("efficientnet_b2", "imagenet"): _imagenet("efficientnet_b2_rwightman-c35c1473.pth"),
    ("maxvit_t", "imagenet"): _imagenet("maxvit_t-bc5ab103.pth"),
    ("inception_v3", "imagenet"): _imagenet("inception_v3_google-0cc3c7bd.pth"),
    ("resnest101", "imagenet"): _imagenet("resnest101-22405ba7.pth", "the releases of zhanghang1989/ResNeSt"),
}


def weights_folder(home: Path) -> Path:
    """Where published weights lie: imported ones, and files that somebody put there."""
    return home / "weights"


def start_of(arch: str, initial: str) -> Start:
    """Raises UserError for weights that the architecture cannot start from."""
    if (arch, initial) not in STARTS:
        known = [name for net, name in STARTS if net == arch]
        raise UserError(f"{arch} cannot start from {initial!r}. It can from: {', '.join(['scratch', *known])}.")
    return STARTS[arch, initial]


def find(arch: str, initial: str, weights: Path) -> Path:
    """The file, in the folder ``weights`` (MIBENCH_HOME/weights) or in torch's cache. Raises MissingError."""
    start = start_of(arch, initial)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    hub = Path(os.environ.get("TORCH_HOME") or cache / "torch") / "hub" / "checkpoints"
    for folder in (weights, hub):
        if (folder / start.file).is_file():
            return folder / start.file
    raise MissingError(
        f"{arch} starts from {initial} weights, which are not here: get {start.file} from {start.origin} and put it "
        f"into {weights}. A defense can start from scratch instead, which its label then says: "
        f"--set 'defense.recipe={{initial: scratch}}'."
    )


def missing(arch: str, initial: str, weights: Path) -> str | None:
    """Why a network cannot start from these weights here, or None."""
    if initial == "scratch":
        return None
    try:
        find(arch, initial, weights)
    except MissingError as error:
        return str(error)
    return None
