"""How numbers, durations and links are written on the pages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

FRACTIONS = frozenset({"nat1", "att1", "att5", "att1_selected", "att5_selected", "att1_step0", "conf", "face_rate"})
FRACTIONS |= {"att_maj", "att_min", "att1_e2", "att5_e2", "conf_e2", "att1_e3", "att5_e3", "ver_e3"}
MISSING = "–"


def number(value: float | None, unit: str | None = None) -> str:
    """A value without its unit: fractions as per cent with one decimal, the rest with four digits, None as
    a dash."""
    if value is None:
        return MISSING
    if unit == "fraction":
        return f"{100 * value:.1f}".replace("-0.0", "0.0")
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def interval(low: float | None, high: float | None, unit: str | None = None) -> str:
    """``35.0–51.7``, cut to 0 to 100 for fractions; empty without an interval."""
    if low is None or high is None:
        return ""
    if unit == "fraction":
        low, high = max(low, 0.0), min(high, 1.0)
    return f"{number(low, unit)}–{number(high, unit)}"


def points(difference: float | None) -> str:
    """A difference of fractions in percentage points, with its sign: ``−12.5``, ``+3.0``, ``0.0``."""
    if difference is None:
        return MISSING
    written = f"{100 * difference:+.1f}"
    return "0.0" if written in ("+0.0", "-0.0") else written.replace("-", "−")


def points_interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{points(low)} to {points(high)}"


def duration(seconds: float | None) -> str:
    """``4.2 s``, ``42 s``, ``12.1 min``, ``3.3 h``."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def anchor(*parts: object) -> str:
    """An id for an element: letters, digits and dashes; other characters by their code point, so ids stay
    apart."""
    text = "-".join(str(part) for part in parts)
    return re.sub(r"[^A-Za-z0-9-]", lambda match: f"_{ord(match.group()):x}_", text)


def file_name(name: str) -> str:
    """A file's name for an id: as ``anchor``, and a hash where that would be too long for a file system."""
    made = anchor(name)
    return made if len(made) <= 100 else f"{made[:60]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def safe_url(url: object) -> str | None:
    """The address if it is http, https or relative, else None (``javascript:`` and the like)."""
    if not isinstance(url, str) or re.search(r"[\x00-\x20\\]", url):
        return None
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        return None
    relative = not scheme and ":" not in url.split("/")[0] and not url.startswith("//")
    return url if scheme.lower() in ("http", "https") or (url and relative) else None


def full_name(title: str, method: str, label: str, keep: bool = False) -> str:
    """A method with its setting in words: ``Random erasing (strong)`` for ``re[strong]`` of ``Random erasing (MIDRE)``.
    ``keep``: what the title says in brackets tells methods apart."""
    setting = re.sub(r"^\[(.*)\]$", r"\1", label.removeprefix(method))
    name = title if keep else re.sub(r"\s+\([^()]*\)$", "", title)
    return f"{name} ({setting})" if setting else name


def flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as sorted (dotted name, text) pairs."""
    pairs: list[tuple[str, str]] = []
    for key in sorted(data, key=str):
        name, value = f"{prefix}{key}", data[key]
        if isinstance(value, Mapping) and value:
            pairs += flat(value, f"{name}.")
        else:
            pairs.append((name, plain(value)))
    return pairs


def plain(value: Any) -> str:
    """A parameter value as a reader writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text}" for name, text in flat(value)) or "none"
    return str(value)
