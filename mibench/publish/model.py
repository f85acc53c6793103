"""What the site is built from, besides the runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mibench.protocol.method_files import CONTROL
from mibench.records import RunRecord

if TYPE_CHECKING:
    from mibench.protocol.suites import Suite
    from mibench.publish.figures_file import Reported
    from mibench.publish.rows import Board

Facts = Mapping[str, Any]
SAMPLE = 6  # identities of each run whose pictures a sample holds


@dataclass(frozen=True)
class Catalogue:
    """Plain facts about what exists, keyed by id. Every fact is optional; an unknown track counts as
    sensitive.

    tracks: title, version, kind, sensitive, publish_private (the licence allows showing private images), chance,
    identities, metrics, and any further plain fact (shown on the track's page as it is). defenses and attacks: title,
    kind, family, access, prior, adaptive (an attack made to get around a defense), paper, url, year, reference (title,
    venue, year, url), presets, costs, deviations, code_version. metrics: title, direction (``low`` or ``high``,
    whichever is more private, or None), unit (``fraction`` is shown as per cent), help. bounds: the controls that are
    floor and ceiling of a prior. claims: the suite whose claims the runs are to decide."""

    tracks: Mapping[str, Facts] = field(default_factory=dict)
    defenses: Mapping[str, Facts] = field(default_factory=dict)
    attacks: Mapping[str, Facts] = field(default_factory=dict)
    metrics: Mapping[str, Facts] = field(default_factory=dict)
    bounds: tuple[str, str] | None = None
    claims: Suite | None = None

    @property
    def controls(self) -> frozenset[str]:
        """The defenses and attacks that tell what others' figures mean."""
        facts = [*self.defenses.items(), *self.attacks.items()]
        return frozenset(name for name, fact in facts if CONTROL in (fact.get("kind"), fact.get("family")))

    @property
    def baselines(self) -> frozenset[str]:
        """The undefended model."""
        return frozenset(name for name, facts in self.defenses.items() if facts.get("kind") == "baseline")

    def board_title(self, board: Board) -> str:
        title = self.tracks.get(board.track, {}).get("title") or board.track
        return f"{title} ({board.generation})" if board.generation else str(title)

    def sensitive(self, track: str) -> bool:
        """Whether reconstructions on this track can be faces of real people."""
        return bool(self.tracks.get(track, {}).get("sensitive", True))

    def may_show_private(self, track: str) -> bool:
        """Whether the licence of this track's private images allows publishing them."""
        return bool(self.tracks.get(track, {}).get("publish_private", False))


@dataclass(frozen=True)
class SiteOptions:
    """What the site carries besides the figures.

    images: of all identities, of a sample (the first ``SAMPLE`` identities of each run), or none. ``image_source``
    finds the file of one entry of ``RunRecord.images``; ``private_source`` finds a private image by track, label and
    index. It is asked on tracks that allow it, and on all when ``private_images`` is set: such a site is for this
    machine only. ``feature_source`` finds a run's ``features.json``. studies: what
    people said, by run (``mibench.study.load_studies``). reported: published figures, shown apart. docs: the built
    documentation, a folder with index.html, which becomes a part of the site. commit: of the code that
    builds it; licence: of code and figures."""

    images: Literal["none", "sample", "all"] = "none"
    private_images: bool = False
    image_source: Callable[[RunRecord, dict[str, Any]], Path | None] | None = None
    private_source: Callable[[str, int, int], Path | None] | None = None
    feature_source: Callable[[RunRecord], Path | None] | None = None
    studies: Mapping[str, Sequence[Facts]] = field(default_factory=dict)
    reported: tuple[Reported, ...] = ()
    docs: Path | None = None
    commit: str | None = None
    licence: str | None = None

    @property
    def shows_private(self) -> bool:
        return self.private_images and self.identities_shown != 0

    @property
    def identities_shown(self) -> int | None:
        """How many identities of a run have pictures; None: all."""
        if self.images == "all":
            return None
        return SAMPLE if self.images == "sample" else 0
