"""The leaderboard as static files: a pure function of the runs and the catalogue, readable from disk."""

from mibench.publish.build import build_site
from mibench.publish.model import Catalogue, SiteOptions

__all__ = ["Catalogue", "SiteOptions", "build_site"]
