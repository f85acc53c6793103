"""Rates, sensitivity, agreement and intervals over identities: pure functions of counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from mibench.records import MetricValue
from mibench.stats import Interval, bootstrap_interval

Array = NDArray[np.float64]


def rate(outcomes: Iterable[tuple[Hashable, float]], reason: str) -> MetricValue:
    """The mean over identities of their mean outcome, with its BCa interval over identities. ``outcomes`` pairs an
    identity with 0 or 1, once per answer; without any, the value is null with ``reason``."""
    groups = grouped(outcomes)
    if not groups:
        return MetricValue(None, reason=reason)
    means = [sum(values) / len(values) for values in groups.values()]
    low, high = bootstrap_interval(means)
    return MetricValue(sum(means) / len(means), sum(map(len, groups.values())), low, high)


def grouped(outcomes: Iterable[tuple[Hashable, float]]) -> dict[Hashable, list[float]]:
    groups: dict[Hashable, list[float]] = {}
    for identity, value in outcomes:
        groups.setdefault(identity, []).append(value)
    return groups


def clustered_interval(
    clusters: Array, statistic: Callable[[Array], Array], seed: int = 0, replicates: int = 10_000, level: float = 0.95
) -> Interval:
    """The percentile bootstrap interval of a statistic of sums over identities.

    ``clusters`` (I, M) are the summands of each identity; ``statistic`` maps sums (B, M) to values (B,), nan where it
    is not defined; such replicates do not count. (None, None) for fewer than two identities."""
    count = len(clusters)
    if count < 2:
        return None, None
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), replicates)
    values = statistic(weights.astype(np.float64) @ clusters)
    values = values[np.isfinite(values)]
    if not len(values):
        return None, None
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# --- signal detection ------------------------------------------------------------------------------------------------


def d_prime(hits: Array, signals: Array, alarms: Array, noises: Array) -> Array:
    """z(hit rate) - z(false alarm rate) with the log-linear correction, (count + 0.5) / (n + 1), which keeps it finite
    at rates of 0 and 1 (Hautus 1995). nan without answers of both kinds."""
    value = ndtri((hits + 0.5) / (signals + 1)) - ndtri((alarms + 0.5) / (noises + 1))
    return np.where((signals > 0) & (noises > 0), value, np.nan)


def against_controls(
    accepted: Mapping[Hashable, Sequence[float]], alarms: Mapping[Hashable, Sequence[float]]
) -> tuple[MetricValue, MetricValue]:
    """Acceptance minus false alarms, and d', from 0/1 outcomes by identity. The first is a difference of means over
    identities; d' pools all answers. Intervals resample identities with all their answers, controls included."""
    if not accepted or not alarms:
        missing = MetricValue(None, reason="needs answers to reconstructions and to mismatched controls")
        return missing, missing
    who = sorted({*accepted, *alarms}, key=repr)
    counts = np.array([_counts(accepted.get(name, ())) + _counts(alarms.get(name, ())) for name in who])
    present = (counts[:, [1, 3]] > 0).astype(np.float64)
    means = counts[:, [0, 2]] / np.maximum(counts[:, [1, 3]], 1)
    n = int(counts[:, [1, 3]].sum())
    return (
        _estimate(np.hstack([means, present]), _difference, n),
        _estimate(counts, lambda sums: d_prime(sums[:, 0], sums[:, 1], sums[:, 2], sums[:, 3]), n),
    )


def _counts(outcomes: Sequence[float]) -> list[float]:
    return [float(sum(outcomes)), float(len(outcomes))]


def _difference(sums: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 2] - sums[:, 1] / sums[:, 3])


def _estimate(clusters: Array, statistic: Callable[[Array], Array], n: int) -> MetricValue:
    value = float(statistic(clusters.sum(0, keepdims=True))[0])
    low, high = clustered_interval(clusters, statistic)
    return MetricValue(value, n, low, high)


# --- agreement -------------------------------------------------------------------------------------------------------


def krippendorff_alpha(units: Iterable[tuple[Hashable, Sequence[Hashable]]]) -> MetricValue:
    """Krippendorff's alpha for nominal data, with its interval over identities; missing answers are allowed.

    ``units`` pairs the identity of an item with the answers given to it. 1 is perfect agreement, 0 what chance would
    give. Items with fewer than two answers say nothing and do not count."""
    usable = [(identity, list(answers)) for identity, answers in units if len(answers) >= 2]
    if not usable:
        return MetricValue(None, reason="needs items that two raters answered")
    categories = sorted({answer for _, answers in usable for answer in answers}, key=repr)
    if len(categories) == 1:
        return MetricValue(None, reason="all answers are the same, so chance agreement is perfect too")
    column = {category: place for place, category in enumerate(categories, start=1)}
    sums: dict[Hashable, Array] = {}
    for identity, answers in usable:
        totals = sums.setdefault(identity, np.zeros(len(categories) + 1))
        for answer, count in Counter(answers).items():
            totals[0] += count * (count - 1) / (len(answers) - 1)
            totals[column[answer]] += count
    n = sum(len(answers) for _, answers in usable)
    return _estimate(np.array(list(sums.values())), _alpha, n)


def _alpha(sums: Array) -> Array:
    """alpha from sums (B, 1 + K): the diagonal of the coincidence matrix, and the answers of each category
    (Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section C)."""
    agreed, totals = sums[:, 0], sums[:, 1:]
    n = totals.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - (n - 1) * (n - agreed) / (n**2 - (totals**2).sum(1)))
