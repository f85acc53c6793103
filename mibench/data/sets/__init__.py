"""Data sets as their owners distribute them, by name; see docs/data.md."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from mibench.data.sets.base import DataSet
from mibench.errors import unknown

SETS = {
    "celeba64-gmi": "celeba:gmi",
    "celeba224-ppa": "celeba:ppa",
    "celeba-vmi": "celeba:vmi",
    "facescrub224-ppa": "facescrub:ppa",
    "facescrub64-lokt": "facescrub:lokt",
    "facescrub64": "facescrub:public",
    "ffhq64": "ffhq:ffhq64",
    "ffhq256": "ffhq:ffhq256",
    "metfaces256": "ffhq:metfaces256",
    "afhqdog256": "ffhq:afhqdog256",
    "dogs224-ppa": "dogs:dogs",
    "mnist-gmi": "mnist_files:mnist",
    "fashion-mnist": "mnist_files:fashion",
    "chestx-vmi": "chestx:vmi",
    "chestx-vmi-leaky": "chestx:leaky",
}
FOLDER = "folder"  # any folder of images, described by a track file
NONE = "none"  # public images that a track does without


def data_set(name: str) -> DataSet:
    """The set called ``name``. Raises UserError for a name that does not exist."""
    if name not in SETS:
        raise unknown("data set", name, SETS)
    module, _, function = SETS[name].partition(":")
    make: Callable[[], DataSet] = getattr(import_module(f"mibench.data.sets.{module}"), function)
    return make()
