"""Accuracies: of the target on sealed images, and of the evaluator on reconstructions."""

from __future__ import annotations

from mibench.metrics.evidence import Evidence, macro, top_k
from mibench.records import MetricValue


def nat1(e: Evidence) -> MetricValue:
    return macro(top_k(e.test_logits, e.test_labels, 1), e.test_labels)


def att1(e: Evidence) -> MetricValue:
    return macro(top_k(e.logits, e.label, 1), e.label)


def att5(e: Evidence) -> MetricValue:
    return macro(top_k(e.logits, e.label, 5), e.label)


def att1_selected(e: Evidence) -> MetricValue:
    return macro(top_k(e.logits, e.label, 1)[e.selected], e.label[e.selected])


def att5_selected(e: Evidence) -> MetricValue:
    return macro(top_k(e.logits, e.label, 5)[e.selected], e.label[e.selected])


def att1_step0(e: Evidence) -> MetricValue:
    return macro(top_k(e.initial_logits, e.label, 1), e.label)


def conf(e: Evidence) -> MetricValue:
    return macro(e.logits.softmax(1).gather(1, e.label[:, None])[:, 0], e.label)
