"""The face embedding that an attacker of black boxes owns."""

from __future__ import annotations

from facenet_pytorch import InceptionResnetV1
from torch import Tensor
from torch.nn.functional import interpolate


class CasiaFaceNet(InceptionResnetV1):  # type: ignore[misc]
    """InceptionResnetV1 trained on CASIA-WebFace, as facenet-pytorch distributes it (its tensors have these names):
    images (N, 1 or 3, H, W) in [0, 1], resized to 160x160 -> the logits (N, 10575) of that data set's people."""

    def __init__(self, num_classes: int = 10_575) -> None:
        super().__init__(classify=True, num_classes=num_classes)

    def forward(self, images: Tensor) -> Tensor:
        colour = images.expand(-1, 3, -1, -1)
        logits: Tensor = super().forward(interpolate(colour, (160, 160), mode="bilinear", align_corners=False))
        return logits
