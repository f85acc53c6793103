"""What the site is built from, besides the runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mibench.records import RunRecord

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Catalogue:
    """Plain facts about what exists, keyed by id. Every fact is optional; an unknown track counts as
    sensitive.

    tracks: title, version, kind, sensitive, chance, identities, metrics, and any further plain fact (shown
    on the protocol page as it is). defenses and attacks: title, paper, url, year, deviations. metrics:
    title, direction (``low`` or ``high``, whichever is more private, or None), unit (``fraction`` is shown
    as per cent), help."""

    tracks: Mapping[str, Facts] = field(default_factory=dict)
    defenses: Mapping[str, Facts] = field(default_factory=dict)
    attacks: Mapping[str, Facts] = field(default_factory=dict)
    metrics: Mapping[str, Facts] = field(default_factory=dict)

    def sensitive(self, track: str) -> bool:
        """Whether reconstructions on this track can be faces of real people."""
        return bool(self.tracks.get(track, {}).get("sensitive", True))


@dataclass(frozen=True)
class SiteOptions:
    """Which images the site carries.

    ``image_source`` finds the file of one entry of ``RunRecord.images``; ``private_source`` finds a private
    image by track, label and index and is asked only when ``private_images`` is set: such a site is for
    this machine only."""

    images: Literal["none", "all"] = "none"
    private_images: bool = False
    image_source: Callable[[RunRecord, dict[str, Any]], Path | None] | None = None
    private_source: Callable[[str, int, int], Path | None] | None = None

    @property
    def shows_private(self) -> bool:
        return self.private_images and self.images == "all"
