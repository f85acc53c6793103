"""Generators, critics and discriminators of the attacks that train a GAN of their own.

Generators map (N, latent_dim) latents to (N, C, H, W) images in [0, 1]. All networks come for 32 and 64
pixels, the smaller ones with one stage fewer.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mibench.errors import UserError
from mibench.nets.generator import Generator


def up_stages(resolution: int) -> int:
    """How often 4x4 doubles to reach ``resolution``."""
    if resolution not in (32, 64):
        raise UserError(f"Expected a GAN of 32 or 64 pixels, found {resolution}. Use a track of 32 or 64 pixels.")
    return {32: 3, 64: 4}[resolution]


class GmiGenerator(Generator):
    """The generator of GMI and KED-MI (Zhang et al., CVPR 2020): linear to 4x4, then doubling transposed 5x5
    convolutions, sigmoid. At 64 pixels and width 64: 512x4x4, 256, 128, 64."""

    published_names: ClassVar[dict[str, str]] = {"l1": "start", "l2_5": "ups"}

    def __init__(self, resolution: int, channels: int, width: int = 64, latent_dim: int = 100) -> None:
        super().__init__()
        ups = up_stages(resolution)
        sizes = [width * 2**power for power in reversed(range(ups))]
        self.latent_dim = latent_dim
        self.start = nn.Sequential(
            nn.Linear(latent_dim, sizes[0] * 16, bias=False), nn.BatchNorm1d(sizes[0] * 16), nn.ReLU()
        )
        self.unflatten = nn.Unflatten(1, (sizes[0], 4, 4))
        self.ups = nn.Sequential(
            *(
                nn.Sequential(
                    nn.ConvTranspose2d(a, b, 5, 2, 2, output_padding=1, bias=False),
                    nn.BatchNorm2d(b),
                    nn.ReLU(),
                )
                for a, b in pairwise(sizes)
            ),
            nn.ConvTranspose2d(width, channels, 5, 2, 2, output_padding=1),
            nn.Sigmoid(),
        )

    def parts(self) -> list[nn.Module]:
        *ups, last, sigmoid = self.ups
        return [nn.Sequential(self.start, self.unflatten), *ups, nn.Sequential(last, sigmoid)]


def _down(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    """Halve the resolution; instance normalisation where the published code says layer normalisation."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, 2, kernel // 2),
        nn.InstanceNorm2d(channels_out, affine=True),
        nn.LeakyReLU(0.2),
    )


class GmiCritic(nn.Module):
    """GMI's Wasserstein critic: images -> (N,) scores, higher for images that look real."""

    published_names: ClassVar[dict[str, str]] = {"ls": "layers"}

    def __init__(self, resolution: int, channels: int, width: int = 64) -> None:
        super().__init__()
        sizes = [width * 2**power for power in range(up_stages(resolution))]
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 5, 2, 2),
            nn.LeakyReLU(0.2),
            *(_down(a, b, 5) for a, b in pairwise(sizes)),
            nn.Conv2d(sizes[-1], 1, 4),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten()


class MinibatchDiscrimination(nn.Module):
    """How close each row is to the others of its group (Salimans et al., NeurIPS 2016, section 3.2).

    With ``M_i = f_i A`` in R^{kernels x dim}: ``b_i[k] = sum_j exp(-||M_i[k] - M_j[k]||_1) - 1``, j over the
    group of i, summed and not averaged.
    """

    def __init__(self, features: int, kernels: int, dim: int) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.randn(features, kernels, dim))

    def forward(self, features: Tensor, group: int | None = None) -> Tensor:
        """(N, F) -> (N, kernels). ``group`` consecutive rows belong together; None: all. Raises ValueError
        unless ``group`` divides N."""
        rows = len(features)
        group = rows if group is None else group
        if group < 1 or rows % group:
            raise ValueError(f"{rows} rows are not a multiple of the group of {group}")
        # (N / group, group, kernels, dim). On a CPU cdist takes a tenth of the broadcast difference's time.
        projected = torch.einsum("nf,fkd->nkd", features, self.projection).unflatten(0, (-1, group))
        by_kernel = projected.transpose(1, 2).contiguous()
        closeness = torch.exp(-torch.cdist(by_kernel, by_kernel, p=1)).sum(-1) - 1
        return closeness.transpose(1, 2).flatten(0, 1)


class Discrimination(NamedTuple):
    """features: (N, F), before minibatch discrimination. logits: (N, K); "fake" has the implicit logit 0."""

    features: Tensor
    logits: Tensor


class KedmiDiscriminator(nn.Module):
    """KED-MI's discriminator (Chen et al., ICCV 2021): the target's K classes, minibatch discrimination."""

    published_names: ClassVar[dict[str, str]] = {
        "layer1": "downs.0",
        "layer2": "downs.1",
        "layer3": "downs.2",
        "layer4": "downs.3",
        "mbd1.T": "minibatch.projection",
        "fc_layer": "head",
    }

    def __init__(
        self,
        num_classes: int,
        resolution: int,
        channels: int,
        width: int = 64,
        mbd: tuple[int, int] = (64, 50),
    ) -> None:
        super().__init__()
        downs = [_down(channels, width, 5), _down(width, 2 * width, 5), _down(2 * width, 4 * width, 5)]
        if up_stages(resolution) == 4:
            downs.append(_down(4 * width, 4 * width, 3))
        self.downs = nn.Sequential(*downs)
        kernels, dim = mbd
        self.feature_dim = 4 * width * 16
        self.minibatch = MinibatchDiscrimination(self.feature_dim, kernels, dim)
        self.head = nn.Linear(self.feature_dim + kernels, num_classes)

    def forward(self, images: Tensor, group: int | None = None) -> Discrimination:
        """``group`` consecutive rows share the minibatch statistic; None: the whole batch. Raises ValueError
        unless ``group`` divides the batch."""
        features = self.downs(images).flatten(1)
        return Discrimination(features, self.head(torch.cat([features, self.minibatch(features, group)], dim=1)))


class _Rescaled(nn.Module):
    """tanh, from [-1, 1] to [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return (torch.tanh(x) + 1) / 2


def _initialise_dcgan(net: nn.Module) -> None:
    """DCGAN's: every weight N(0, 0.02) around its neutral value (Radford et al., ICLR 2016)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)


class DcganGenerator(Generator):
    """DCGAN's generator: transposed 4x4 convolutions without bias, batch normalisation. A ``tanh`` output is
    rescaled from [-1, 1]. At 64 pixels the widths are 8, 4, 2 and 1 times ``width``."""

    published_names: ClassVar[dict[str, str]] = {"main": "layers"}

    def __init__(
        self,
        resolution: int,
        channels: int,
        width: int,
        latent_dim: int = 100,
        output: Literal["sigmoid", "tanh"] = "sigmoid",
    ) -> None:
        super().__init__()
        sizes = [width * 2**power for power in reversed(range(up_stages(resolution)))]
        self.latent_dim = latent_dim
        self.output = output
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, sizes[0], 4, 1, 0, bias=False)]
        for a, b in pairwise([*sizes, channels]):
            layers += [nn.BatchNorm2d(a), nn.ReLU(), nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False)]
        self.layers = nn.Sequential(*layers)
        _initialise_dcgan(self)

    def parts(self) -> list[nn.Module]:
        layers = list(self.layers)
        stages = [nn.Sequential(*layers[i : i + 3]) for i in range(0, len(layers) - 1, 3)]
        first = nn.Sequential(nn.Unflatten(1, (self.latent_dim, 1, 1)), stages[0])
        image = nn.Sigmoid() if self.output == "sigmoid" else _Rescaled()
        return [first, *stages[1:], nn.Sequential(layers[-1], image)]


class DcganDiscriminator(nn.Module):
    """DCGAN's discriminator: images -> (N,) logits of being real."""

    published_names: ClassVar[dict[str, str]] = {"main": "layers"}

    def __init__(self, resolution: int, channels: int, width: int) -> None:
        super().__init__()
        sizes = [width * 2**power for power in range(up_stages(resolution))]
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        for a, b in pairwise(sizes):
            layers += [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(sizes[-1], 1, 4, bias=False))
        _initialise_dcgan(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten()
