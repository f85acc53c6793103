"""Distances in the evaluator's features, squared, to the nearest private training image of the identity."""

from __future__ import annotations

from mibench.metrics.evidence import Evidence, macro, nearest_private
from mibench.records import MetricValue


def knn_eval(e: Evidence) -> MetricValue:
    distance, _ = nearest_private(e.features, e.label, e.private_features, e.private_labels)
    return macro(distance, e.label)


def d_eval(e: Evidence) -> MetricValue:
    distance, _ = nearest_private(e.features[e.selected], e.label[e.selected], e.private_features, e.private_labels)
    return macro(distance, e.label[e.selected])
