"""Everything a plugin author needs: the base classes, the objects they receive, and who calls what when.

Images are (N, C, H, W) float32 in [0, 1] everywhere. A plugin imports ``mibench`` and torch, never another plugin;
it never reads a global seed, the environment, the working directory or a file: what it needs arrives in a context.

Order of calls for one run, each stage in a process of its own:
  target    Defense.build -> Defense.train (default: the track's loop, which calls sampler, augment, mix and loss)
  prior     Prior.build -> Prior.train
  prepare   Attack.prepare, if the attack has one
  invert    Attack.invert, with the oracle its ``access`` allows, in blocks of identities
  panel, utility, evaluate, features   engine only; ``evaluate`` imports no plugin

Each class stands in the module called after it: ``defense``, ``attack``, ``prior``, ``metric``, what they receive in
``context``, ``oracle``, ``rows`` and ``loop``, and plain values in ``values``.
"""

from __future__ import annotations

from mibench.contracts.attack import Attack, AttackContext, ControlContext
from mibench.contracts.context import Context
from mibench.contracts.defense import Defense, DefenseParams, TrainContext
from mibench.contracts.loop import Loop, LoopHooks
from mibench.contracts.metric import Metric
from mibench.contracts.oracle import AccessDenied, BudgetSpent, Oracle
from mibench.contracts.prior import Prior, PriorContext, PriorModel
from mibench.contracts.rows import Rows, RowView
from mibench.contracts.values import Access, Batch, ImageSet, PriorRef, Progress, Reconstruction, TrackInfo
from mibench.nets.base import Classifier, Output
from mibench.nets.generator import Generator
from mibench.protocol.params import BaseParams
from mibench.protocol.tracks import RecipeSection as Recipe
from mibench.random import Rng, RowStreams, Stream, Visit
from mibench.records import MetricValue

__all__ = [
    "Access",
    "AccessDenied",
    "Attack",
    "AttackContext",
    "BaseParams",
    "Batch",
    "BudgetSpent",
    "Classifier",
    "Context",
    "ControlContext",
    "Defense",
    "DefenseParams",
    "Generator",
    "ImageSet",
    "Loop",
    "LoopHooks",
    "Metric",
    "MetricValue",
    "Oracle",
    "Output",
    "Prior",
    "PriorContext",
    "PriorModel",
    "PriorRef",
    "Progress",
    "Recipe",
    "Reconstruction",
    "Rng",
    "RowStreams",
    "RowView",
    "Rows",
    "Stream",
    "TrackInfo",
    "TrainContext",
    "Visit",
]
