"""Populations: searches that only see scores, of one identity at a time (``queries.one_by_one``)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mibench.contracts import BudgetSpent, Oracle, Rows
from mibench.primitives.queries import in_chunks
from mibench.random import Rng


def log(scores: Tensor) -> Tensor:
    """Of probabilities that may be 0: at least -69, so that the fitness of nobody is infinite."""
    return scores.clamp(min=1e-30).log()


@torch.no_grad()
def log_scores(oracle: Oracle, rows: Rows, row: Tensor, latents: Tensor, render: Callable[[Tensor], Tensor]) -> Tensor:
    """f = log p_y of a population's images, asked in chunks: (P, d) of the one row ``row`` (1,) -> (P,)."""

    def fitness(w: Tensor) -> Tensor:
        asked = rows.take(row, each=len(w))
        return log(oracle.scores(render(w), asked).gather(1, asked.label[:, None])[:, 0])

    return in_chunks(fitness, latents)


# --- genetic search -------------------------------------------------------------------------------------------------


def crossover(population: Tensor, fitness: Tensor, children: int, rng: Rng, literal: bool = False) -> Tensor:
    """MIRROR's uniform crossover (An et al., NDSS 2022). Population (P, d) with fitness f = log p_y (P,) -> (children,
    d). Parents a, b are drawn with probability softmax(f); each coordinate is a's with probability p_a / (p_a + p_b).
    ``literal``: with f_a / (f_a + f_b), as the released code has it, which favours the worse parent."""
    wheel = fitness.double().softmax(0).cumsum(0)
    spins = rng.uniform(1, 2, children)[0].double() * wheel[-1]
    a, b = torch.searchsorted(wheel, spins, right=True).clamp(max=len(fitness) - 1)
    f_a, f_b = fitness[a], fitness[b]
    share = f_a / (f_a + f_b) if literal else torch.sigmoid(f_a - f_b)
    from_a = rng.uniform(1, children, population.shape[1])[0] < share[:, None]
    return torch.where(from_a, population[a], population[b])


def mutate(individuals: Tensor, rate: float, scale: Tensor, rng: Rng) -> Tensor:
    """Each coordinate of (n, d) with probability ``rate`` moved by ``scale`` (d,) times U(-1, 1), each its own."""
    n, d = individuals.shape
    hit, noise = rng.uniform(1, 2, n, d)[0]
    return individuals + (hit < rate) * scale * (2 * noise - 1)


def evolve(
    population: Tensor,
    fitness: Tensor,
    breed: Callable[[Tensor, Tensor], Tensor],
    judge: Callable[[Tensor], Tensor],
    generations: int,
    enough: float,
) -> tuple[Tensor, Tensor, int]:
    """The fittest stays, ``breed(population, fitness)`` gives the others, ``judge`` their fitness; until one has
    ``enough``. (P, d) and (P,) -> the fittest (d,), its fitness, and how many generations were bred."""
    for generation in range(generations):
        best = fitness.argmax()
        if fitness[best] >= enough:
            return population[best], fitness[best], generation
        children = breed(population, fitness)
        try:
            judged = judge(children)
        except BudgetSpent:
            return population[best], fitness[best], generation
        fitness = torch.cat([fitness[best, None], judged])
        population = torch.cat([population[best, None], children])
    best = fitness.argmax()
    return population[best], fitness[best], generations


# --- differential evolution -----------------------------------------------------------------------------------------


def confidence(p: Tensor, label: int, top: int | None = None) -> Tensor:
    """C2FMI's fitness (Ye et al., TDSC 2023) of scores (P, K) -> (P,): p_y. If only the ``top`` largest scores are
    known and y is not among them, minus their sum."""
    p_y = p[:, label]
    if top is None:
        return p_y
    known = p.topk(top).values
    return torch.where((p_y >= known[:, -1]) & (p_y > 0), p_y, -known.sum(1))


def settling(generation: int, generations: int) -> float:
    """C2FMI's beta_g: 0.1, in the last 30 of N generations 0.1 (N - g) / 50; so it falls to 0.06 at once."""
    left = generations - generation
    return 0.1 if left > 30 else 0.1 * left / 50


def differential_evolution(
    population: Tensor,
    judge: Callable[[Tensor], Tensor],
    generations: int,
    rng: Rng,
    attraction: float = 0.02,
    differences: int = 4,
    crossover: float = 0.5,
    watch: Callable[[Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """C2FMI's fine search: v_i = x_i + 0.02 (x_best - x_i) + beta_g sum_k (x_{a_k} - x_{b_k}) with 4 random pairs,
    drawn with replacement; each coordinate of the trial is v's with probability 0.5, else x's; it replaces x_i if it
    is fitter. (P, d) -> the last population and its fitness (P,).

    ``judge`` gives the fitness (P,) of P individuals, higher is better, and is asked 1 + ``generations`` times: parents
    keep theirs. A spent query budget ends it, as it ends ``evolve``. ``watch`` sees the fitness after each generation.
    """
    x, fitness = population, judge(population)
    n, d = x.shape
    for generation in range(generations):
        a, b = (rng.uniform(1, 2, differences, n)[0] * n).long()
        difference = (x[a] - x[b]).sum(0)
        v = x + attraction * (x[fitness.argmax()] - x) + settling(generation, generations) * difference
        trial = torch.where(rng.uniform(1, n, d)[0] < crossover, v, x)
        try:
            trial_fitness = judge(trial)
        except BudgetSpent:
            break
        better = trial_fitness > fitness
        x, fitness = torch.where(better[:, None], trial, x), torch.where(better, trial_fitness, fitness)
        if watch is not None:
            watch(fitness)
    return x, fitness


# --- (1+1) evolution strategy ---------------------------------------------------------------------------------------


def one_plus_one(
    start: Tensor,
    judge: Callable[[Tensor], Tensor],
    noise: Callable[[], Tensor],
    clip: Callable[[Tensor], Tensor],
    budget: int,
    step: float = 1.0,
    watch: Callable[[Tensor, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """What nevergrad's NGOpt comes to for one worker and a small budget (SMILE; Li et al., CVPR 2025), for rows (R, d)
    beside each other: ask clip(best + s N(0, I)); s doubles where that is better and shrinks by 0.84 where it is worse.
    -> the best points (R, d) and their fitness (R,).

    ``judge`` gives the fitness (R,), higher is better, and is asked ``budget`` times, first about the clipped start,
    which counts as better; a spent query budget ends it. ``noise`` draws (R, d). ``watch`` sees each answer and s (R,).
    """
    best = clip(start)
    f_best, s = judge(best), torch.full_like(best[:, 0], 2 * step)
    if watch is not None:
        watch(f_best, s)
    for _ in range(budget - 1):
        x = clip(best + s[:, None] * noise())
        try:
            f = judge(x)
        except BudgetSpent:
            break
        better = f > f_best
        s = torch.where(better, 2 * s, torch.where(f < f_best, 0.84 * s, s))
        best, f_best = torch.where(better[:, None], x, best), torch.where(better, f, f_best)
        if watch is not None:
            watch(f, s)
    return best, f_best
