"""No defense: the undefended target every other row is compared with."""

from mibench.contracts import Defense


class NoDefense(Defense):
    """L = CE(T(x), y)."""
