"""How long something takes, in words."""

from __future__ import annotations


def describe_time(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 20 min``, ``4 days 2 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} days {minutes % 1440 // 60} h"
