"""SCA: sparse-coded first layers (Dibbo et al., "Improving Robustness to Model Inversion Attacks via Sparse Coding
Architectures", ECCV 2024)."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mibench.contracts import Classifier, Defense, DefenseParams
from mibench.nets.small import ConvNet


def sparse_code(x: Tensor, dictionary: Tensor, threshold: float, tau: float, iterations: int) -> Tensor:
    """The last a of ``iterations`` times a = relu(u - lambda), u += (b - u - G a) / tau, u from 0: a locally
    competitive algorithm. (N, C, H, W), each image brought to mean 0 and deviation 1, and atoms (n, C, k, k) of norm 1
    -> (N, n, H, W).

    b is how well each atom fits each place. G a, how well the other active atoms explain it already, is taken by way of
    what they draw together: the same number, at a fraction of the cost of convolving with all atoms' products.
    """
    reach = dictionary.shape[-1] // 2
    x = (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True).clamp(min=1e-8)
    b = functional.conv2d(x, dictionary, padding=reach)
    u = a = torch.zeros_like(b)
    for _ in range(iterations):
        a = functional.relu(u - threshold)
        drawn = functional.conv_transpose2d(a, dictionary)
        u = u + (b - u - (functional.conv2d(drawn, dictionary) - a)) / tau
    return a


class SparseCoding(nn.Module):
    """A convolution's place taken by the sparse code of its input; the random dictionary never learns, as released."""

    def __init__(self, channels: int, atoms: int, kernel: int, threshold: float, tau: float, iterations: int) -> None:
        super().__init__()
        start = nn.init.trunc_normal_(torch.empty(atoms, channels, kernel, kernel))
        self.register_buffer("dictionary", start / start.flatten(1).norm(dim=1)[:, None, None, None])
        self.dictionary: Tensor
        self.settings = (threshold, tau, iterations)

    def forward(self, x: Tensor) -> Tensor:
        return sparse_code(x, self.dictionary, *self.settings)


class SparseCodingArchitecture(Defense):
    """Sparse codes in place of the first two convolutions; then plain training."""

    deviations = (
        "The host is the track's small network: its batch norms and pooling stay, and there is no dropout.",
        "Computed in float32, where the released code computes in float16.",
        "Small tracks iterate 30 times with tau 10, not 500 times with tau 100.",
    )

    class Params(DefenseParams):
        threshold: float = Field(0.5, ge=0, description="lambda, at least 0; the larger, the sparser")
        tau: float = Field(
            100.0, ge=1, description="slowness of the code, at least 1; small values need a large lambda"
        )
        iterations: int = Field(500, ge=2, description="steps to a code, at least 2")
        kernel: Literal[3, 5, 7] = Field(5, description="side of an atom")

    def skip(self) -> str | None:
        return None if self.track.arch in ("", "convnet") else "only the small network's first layers are replaced"

    def build(self, net: Classifier) -> Classifier:
        assert isinstance(net, ConvNet)
        p = self.params
        for stage in list(net.convs)[:2]:
            assert isinstance(stage, nn.Sequential)
            first = stage[0]
            assert isinstance(first, nn.Conv2d)
            stage[0] = SparseCoding(first.in_channels, first.out_channels, p.kernel, p.threshold, p.tau, p.iterations)
        return net
