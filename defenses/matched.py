"""Matched: a control, no defense. The undefended model, no more accurate than a defended one, which is credited with
what it leaks less than this (specification of evaluation, 7.8)."""

from pydantic import Field

from mibench.contracts import Defense, DefenseParams


class Matched(Defense):
    """L = CE(T(x), y), from the undefended model's initial weights, stopped after the epoch in which T is as accurate
    as the target of the defense ``like`` with the same seed, or nearest to that."""

    class Params(DefenseParams):
        like: str | None = Field(None, description="a defense, as one asks for it; None: trained to the end")
