"""A figure of a run that an installed package offers."""

from __future__ import annotations

from typing import ClassVar

from mibench.metrics.evidence import Evidence
from mibench.records import MetricValue


class Metric:
    """A figure of a run that an installed package offers (entry point ``mibench.metrics``); a track asks for it by
    ``package/name``. The texts are written down plainly: they are read without importing the class."""

    title: ClassVar[str]
    direction: ClassVar[str]  # which values are more private: "low", "high" or "none"
    unit: ClassVar[str]
    help: ClassVar[str]
    version: ClassVar[int] = 1

    @staticmethod
    def compute(evidence: Evidence) -> MetricValue:
        """The value with its interval and its parts (``mibench.metrics.evidence.macro`` makes all three of one number
        for each image), or None with the reason."""
        raise NotImplementedError
