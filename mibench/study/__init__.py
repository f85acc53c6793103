"""Human studies of reconstructions: a page for raters, a key for the researcher, and what the answers say.

Protocol: same person or not, with real controls; line-up; which of two. The page holds no answer; the key stays with
the researcher. ``build`` makes both, ``score`` reads the answers, ``results`` keeps what was found beside the runs.
"""

from mibench.study.results import load_studies

__all__ = ["load_studies"]
