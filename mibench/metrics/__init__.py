"""What is measured: ids, directions and units here, without torch; the computing lies in the modules beside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

Direction = Literal["low", "high", "none"]


@dataclass(frozen=True)
class MetricInfo:
    """One metric. ``direction`` says which values are more private (for ``nat1``: more useful). ``compute`` is the
    function, as ``module:name``, that takes an ``Evidence`` and returns a ``MetricValue``."""

    title: str
    direction: Direction
    unit: str
    help: str
    compute: str
    version: int = 1


_A, _D, _P = "mibench.metrics.accuracy", "mibench.metrics.distance", "mibench.metrics.perceptual"
_J = "mibench.metrics.panel"

_OWN: dict[str, MetricInfo] = {
    "nat1": MetricInfo(
        "natural accuracy",
        "high",
        "fraction",
        "Top-1 accuracy of the target on the sealed test images.",
        f"{_A}:nat1",
    ),
    "att1": MetricInfo(
        "attack accuracy, top-1",
        "low",
        "fraction",
        "Share of all reconstructions that the evaluator assigns to the attacked identity, mean over identities.",
        f"{_A}:att1",
    ),
    "att5": MetricInfo(
        "attack accuracy, top-5",
        "low",
        "fraction",
        "The same with the evaluator's five best guesses.",
        f"{_A}:att5",
    ),
    "att1_selected": MetricInfo(
        "attack accuracy, top-1, selected",
        "low",
        "fraction",
        "att1 over the images that the attack keeps by looking only at the target.",
        f"{_A}:att1_selected",
    ),
    "att5_selected": MetricInfo(
        "attack accuracy, top-5, selected",
        "low",
        "fraction",
        "att5 over the selected images.",
        f"{_A}:att5_selected",
    ),
    "att1_step0": MetricInfo(
        "top-1 before optimisation",
        "none",
        "fraction",
        "att1 of the same rows before the first step. No floor: some attacks have asked the target by then.",
        f"{_A}:att1_step0",
    ),
    "conf": MetricInfo(
        "confidence",
        "low",
        "fraction",
        "Mean probability of the attacked identity under the evaluator.",
        f"{_A}:conf",
    ),
    "knn_eval": MetricInfo(
        "KNN distance",
        "high",
        "squared L2, evaluator features",
        "Squared distance to the identity's nearest private training image in the evaluator's features, all images.",
        f"{_D}:knn_eval",
    ),
    "d_eval": MetricInfo(
        "feature distance",
        "high",
        "squared L2, evaluator features",
        "The same over the selected images.",
        f"{_D}:d_eval",
    ),
    "d_face": MetricInfo(
        "FaceNet distance",
        "high",
        "squared L2, unit FaceNet vectors",
        "The same in VGGFace2 FaceNet features, unit vectors (0 to 4), selected images.",
        f"{_P}:d_face",
    ),
    "lpips": MetricInfo(
        "LPIPS",
        "high",
        "LPIPS (AlexNet)",
        "Perceptual distance to the nearest private training image.",
        f"{_P}:lpips",
    ),
    "fid": MetricInfo(
        "FID",
        "none",
        "Frechet distance, Inception features",
        "Against the private training images; needs 5,000 reconstructions.",
        f"{_P}:fid",
    ),
    "att_maj": MetricInfo(
        "attack accuracy, majority",
        "low",
        "fraction",
        "Share of all reconstructions that at least two of the three judges take for the attacked identity, mean over "
        "identities.",
        f"{_J}:att_maj",
    ),
    "att_min": MetricInfo(
        "attack accuracy, all judges",
        "low",
        "fraction",
        "Share of all reconstructions that all three judges take for the attacked identity.",
        f"{_J}:att_min",
    ),
    "att1_e2": MetricInfo(
        "top-1, second judge (E2)",
        "low",
        "fraction",
        "att1 under a classifier of another family that was trained on the sealed photos alone.",
        f"{_J}:att1_e2",
    ),
    "att5_e2": MetricInfo(
        "top-5, second judge (E2)",
        "low",
        "fraction",
        "The same with its five best guesses.",
        f"{_J}:att5_e2",
    ),
    "conf_e2": MetricInfo(
        "confidence, second judge (E2)",
        "low",
        "fraction",
        "Mean probability of the attacked identity under the second judge.",
        f"{_J}:conf_e2",
    ),
    "att1_e3": MetricInfo(
        "rank 1, open-set judge (E3)",
        "low",
        "fraction",
        "Share of reconstructions whose nearest sealed photo is one of the attacked identity's, by a face recogniser "
        "that never saw a private label.",
        f"{_J}:att1_e3",
    ),
    "att5_e3": MetricInfo(
        "rank 5, open-set judge (E3)",
        "low",
        "fraction",
        "The attacked identity is among the five whose sealed photos lie nearest.",
        f"{_J}:att5_e3",
    ),
    "ver_e3": MetricInfo(
        "verified, open-set judge (E3)",
        "low",
        "fraction",
        "Share of reconstructions that the open-set judge verifies as the attacked identity, where it verifies 1 % of "
        "real photos of other people.",
        f"{_J}:ver_e3",
    ),
    "face_rate": MetricInfo(
        "face detection rate",
        "none",
        "fraction",
        "Share of reconstructions in which MTCNN finds a face.",
        f"{_P}:face_rate",
    ),
}


class _Metrics(Mapping[str, MetricInfo]):
    """Ours, and those of installed packages (``package/name``), whose classes are read and not imported. One that
    cannot be read is listed with the reason, and computing it raises that."""

    @cached_property
    def _all(self) -> dict[str, MetricInfo]:
        return _OWN | _offered()

    def __getitem__(self, name: str) -> MetricInfo:
        return _OWN[name] if "/" not in name else self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def _offered() -> dict[str, MetricInfo]:
    from mibench.errors import UserError
    from mibench.protocol.method_files import literal, offered_class, offered_name, offers

    metrics = {}
    for point in offers("mibench.metrics"):
        name = offered_name(point)
        try:
            _, _, node = offered_class(point)
            title, direction, unit, text, version = (
                literal(node, field) for field in ("title", "direction", "unit", "help", "version")
            )
            if direction not in get_args(Direction) or not (title and unit and text):
                raise UserError("its class needs title, direction (low, high or none), unit and help as plain texts")
        except UserError as error:
            metrics[name] = MetricInfo(f"unusable: {error}", "none", "", str(error), "")
            continue
        compute = f"{point.module}:{point.attr}.compute"
        metrics[name] = MetricInfo(str(title), direction, str(unit), str(text), compute, version or 1)
    return metrics


METRICS: Mapping[str, MetricInfo] = _Metrics()
