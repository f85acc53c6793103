"""Small changes of an image that lower a loss: what adversarial training is made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from mibench.contracts import DefenseParams


class ChangeParams(DefenseParams):
    """How far an image is changed, and in which steps. Lengths are in [0, 1] pixel units."""

    epsilon: float = Field(2.5e-4, gt=0, le=1, description="largest change of a pixel, in [0, 1] units")
    alpha: float = Field(5e-5, gt=0, le=1, description="what a step changes in a pixel, in [0, 1] units")
    iterations: int = Field(5, ge=1, description="steps, at least 1")

    def changed(self, images: Tensor, start: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """``pgd`` with these parameters from a start given by uniform numbers in [0, 1), of the images' shape."""
        noise = self.epsilon * (2 * start - 1)
        return pgd(images, noise, loss, self.epsilon, self.alpha, self.iterations)


def pgd(
    images: Tensor, start: Tensor, loss: Callable[[Tensor], Tensor], epsilon: float, alpha: float, iterations: int
) -> Tensor:
    """Projected gradient descent with signs (Madry et al., ICLR 2018): x' = clip(x + start), then so many times
    x' <- clip(x + clip(x' - alpha sign grad loss(x') - x, +-epsilon)), outer clips to [0, 1].

    (N, C, H, W) in [0, 1] -> the same, detached. ``loss`` is a scalar that is a sum or mean over the images; what it
    asks a network in training mode moves its batch norm's running statistics. Nobody's ``grad`` is touched.
    """
    changed = (images + start).clamp(0, 1)
    for _ in range(iterations):
        changed = changed.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(changed), changed)
        change = (changed.detach() - alpha * gradient.sign() - images).clamp(-epsilon, epsilon)
        changed = (images + change).clamp(0, 1)
    return changed.detach()
