"""What numbers can say: intervals, comparisons, worst attacks, exposure of single people, utility against privacy.

Pure functions of numbers (specification of evaluation, sections 4 to 7). A table is (S, I): S trainings by I people.
"""

from mibench.stats.bootstrap import Interval, bootstrap_interval

__all__ = ["Interval", "bootstrap_interval"]
