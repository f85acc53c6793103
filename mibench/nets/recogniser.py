"""dlib's face recogniser in torch: a residual network that gives photographs of one person vectors that lie close
together (King, dlib 19.3, 2017). It never saw our people, so it is the panel's open-set judge.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 150  # of its input, in pixels
FACE, BORDER, GREY = 126, 12, 128.0  # a face without landmarks: its side there, what is around it, and how bright
MEAN = (122.782, 117.001, 104.298)  # red, green, blue
WIDTHS = (32, 32, 32, 64, 64, 64, 64, 128, 128, 128, 256, 256, 256, 256)  # of the residual blocks
DIMENSION = 128


class _Scale(nn.Module):
    """A frozen batch normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift[:, None, None], x, self.gain[:, None, None])


def _padded(x: Tensor, like: Tensor) -> Tensor:
    """With zeros at the far end of channels, rows and columns, where ``like`` has more of them."""
    missing = [max(there - here, 0) for here, there in zip(x.shape[1:], like.shape[1:], strict=True)]
    return functional.pad(x, [part for size in reversed(missing) for part in (0, size)])


class Recogniser(nn.Module):
    """(N, 3, 150, 150) images in [0, 255] -> (N, 128) descriptors. Euclidean distances between them compare faces.

    Fourteen residual blocks of two convolutions. One that widens, or is the last, halves the resolution: by stride in
    its first convolution, by averaging in its shortcut.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        widens = [after > before for before, after in pairwise(WIDTHS)]
        self.halving = [False, *widens[:-1], True]
        convolutions, before = [nn.Conv2d(3, WIDTHS[0], 7, 2)], WIDTHS[0]
        for width, halves in zip(WIDTHS, self.halving, strict=True):
            convolutions.append(nn.Conv2d(before, width, 3, 2, 0) if halves else nn.Conv2d(before, width, 3, 1, 1))
            convolutions.append(nn.Conv2d(width, width, 3, 1, 1))
            before = width
        self.convolutions = nn.ModuleList(convolutions)
        self.scales = nn.ModuleList(_Scale(layer.out_channels) for layer in convolutions)
        self.descriptor = nn.Linear(before, DIMENSION, bias=False)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        layers = [nn.Sequential(*pair) for pair in zip(self.convolutions, self.scales, strict=True)]
        x = functional.relu(layers[0]((images - self.mean) / 256))
        x = functional.max_pool2d(x, 3, 2)
        for block, halves in enumerate(self.halving):
            h = layers[2 * block + 2](functional.relu(layers[2 * block + 1](x)))
            shortcut = functional.avg_pool2d(x, 2) if halves else x
            x = functional.relu(_padded(h, shortcut) + _padded(shortcut, h))
        out: Tensor = self.descriptor(x.mean((2, 3)))
        return out


def as_its_input(images: Tensor) -> Tensor:
    """(N, 1 or 3, H, W) faces in [0, 1] -> (N, 3, 150, 150) in [0, 255]: resized bilinearly and in a grey frame, as it
    takes a face whose landmarks nobody looked for."""
    faces = functional.interpolate(images, (FACE, FACE), mode="bilinear", antialias=True) * 255
    return functional.pad(faces, [BORDER] * 4, value=GREY).expand(-1, 3, -1, -1)


@torch.inference_mode()
def describe(net: Recogniser, images: Tensor, batch: int = 64) -> Tensor:
    """(N, C, H, W) faces in [0, 1] -> (N, 128)."""
    return torch.cat([net(as_its_input(chunk)) for chunk in images.split(batch)])
