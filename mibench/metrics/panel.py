"""The panel of judges: what E2 and E3 say of reconstructions, what two of three agree on, and what they know.

E1 and E2 accept an image whose largest logit is the attacked person's. E3 accepts it if the nearest of all sealed
photos is one of the attacked person's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mibench.metrics.evidence import Evidence, macro, top_k
from mibench.records import MetricValue

NO_PANEL = "the track has no panel of judges"
BINS = 10  # of the calibration error
LOOK_ALIKES = 4  # of each person, among photos of strangers


def similarity(descriptors: Tensor, gallery: Tensor, labels: Tensor) -> Tensor:
    """(n, F) descriptors and those of real photos (m, F) with labels (m,) -> (n, K): for each person minus the distance
    to the nearest of the person's photos."""
    distance = torch.cdist(descriptors.double(), gallery.double())
    people = range(int(labels.max()) + 1)
    return torch.stack([-distance[:, labels == person].amin(1) for person in people], dim=1)


def false_acceptance_threshold(scores: Tensor, labels: Tensor, rate: float) -> float:
    """The similarity that real photos reach for a share ``rate`` of the other people. scores (n, K), labels (n,)."""
    others = scores.gather(1, _others(scores, labels)).flatten()
    return float(torch.quantile(others, 1 - rate, interpolation="higher"))


def knowledge(scores: Tensor, labels: Tensor, strangers: Tensor, probabilities: bool) -> dict[str, Any]:
    """What a judge knows of real photos it never saw: ``top1``, ``top5`` with intervals over people (macro means), on
    ``n`` photos; ``look_alikes``, how often it takes a stranger for a person, among the photos of strangers that it
    finds most like that person (scores (m, K); null if m is 0); and, of a judge whose scores are logits, the
    expected calibration error (Naeini et al., AAAI 2015; ten bins)."""
    facts: dict[str, Any] = {"n": len(labels)}
    for k in (1, 5):
        value = macro(top_k(scores, labels, k), labels)
        facts[f"top{k}"] = {"value": value.value, "ci_low": value.ci_low, "ci_high": value.ci_high}
    facts["look_alikes"] = look_alikes(strangers) if len(strangers) else None
    facts["calibration_error"] = calibration_error(scores.softmax(1), labels) if probabilities else None
    return facts


def look_alikes(strangers: Tensor) -> float:
    """Mean over people of the share of their look-alikes, photos of strangers, that the judge takes for them."""
    nearest = strangers.topk(min(LOOK_ALIKES, len(strangers)), dim=0).indices  # (4, K)
    taken = strangers.argmax(1)[nearest] == torch.arange(strangers.shape[1])
    return float(taken.double().mean())


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """|accuracy - confidence| of the first guess, mean over ten equal bins of confidence, weighted by their photos."""
    confidence, guess = probabilities.double().max(1)
    right = (guess == labels).double()
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = [(right[bins == b].sum() - confidence[bins == b].sum()).abs() for b in bins.unique()]
    return float(sum(gaps) / len(labels))


def _others(scores: Tensor, labels: Tensor) -> Tensor:
    """(n, K - 1) indices of all people but the labelled one."""
    everybody = torch.arange(scores.shape[1]).expand(len(labels), -1)
    return everybody[everybody != labels[:, None]].view(len(labels), -1)


def answers(e: Evidence) -> dict[str, Tensor]:
    """The scores (n, K) of each judge that is here."""
    judges = {"e1": e.logits, "e2": e.judges.cross if e.judges else None, "e3": e.judges.open_set if e.judges else None}
    return {name: scores for name, scores in judges.items() if scores is not None}


def _judged(e: Evidence, judge: str, score: Callable[[Tensor], Tensor]) -> MetricValue:
    """Of what one judge says, or null with the reason."""
    here = answers(e)
    if judge not in here:
        return MetricValue(None, reason=e.judges.reason if e.judges else NO_PANEL)
    return macro(score(here[judge]), e.label)


def att1_e2(e: Evidence) -> MetricValue:
    return _judged(e, "e2", lambda logits: top_k(logits, e.label, 1))


def att5_e2(e: Evidence) -> MetricValue:
    return _judged(e, "e2", lambda logits: top_k(logits, e.label, 5))


def conf_e2(e: Evidence) -> MetricValue:
    return _judged(e, "e2", lambda logits: logits.softmax(1).gather(1, e.label[:, None])[:, 0])


def att1_e3(e: Evidence) -> MetricValue:
    return _judged(e, "e3", lambda similarities: top_k(similarities, e.label, 1))


def att5_e3(e: Evidence) -> MetricValue:
    return _judged(e, "e3", lambda similarities: top_k(similarities, e.label, 5))


def ver_e3(e: Evidence) -> MetricValue:
    threshold = e.judges.threshold if e.judges else 0.0
    return _judged(e, "e3", lambda scores: (scores.gather(1, e.label[:, None])[:, 0] >= threshold).float())


def _agreed(e: Evidence, enough: int) -> MetricValue:
    votes = [top_k(scores, e.label, 1) for scores in answers(e).values()]
    if len(votes) < 3:
        return MetricValue(None, reason=f"it takes three judges: {e.judges.reason}" if e.judges else NO_PANEL)
    return macro((torch.stack(votes).sum(0) >= enough).float(), e.label)


def att_maj(e: Evidence) -> MetricValue:
    return _agreed(e, 2)


def att_min(e: Evidence) -> MetricValue:
    return _agreed(e, 3)
