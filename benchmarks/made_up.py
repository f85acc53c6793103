"""What the tests make up and benchmarks need too: trees of a data set's shape, runs, a catalogue of methods."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

_trees, _factories = import_module("trees"), import_module("factories")
celeba, celeba_counts = _trees.celeba, _trees.celeba_counts
make_catalogue, make_run = _factories.make_catalogue, _factories.make_run
