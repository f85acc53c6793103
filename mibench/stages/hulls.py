"""Convex hulls in the plane, their area and what two of them share. numpy and scipy only, double precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

Points = NDArray[np.float64]

FLAT = 1e-6  # of the scale: thinner than this is rounding, not extent


def hull(points: Points, scale: float | None = None) -> list[int]:
    """Indices of the corners of the convex hull of ``points`` (n, 2), counter-clockwise.

    Points on one line give the two ends, equal points one index, no points none. ``scale`` is the size of what they
    are drawn in (default: their own largest coordinate); extents below ``FLAT`` times it count as none.
    """
    if not len(points):
        return []
    scale = scale or float(np.abs(points).max()) or 1.0
    centred = (points - points.mean(0)) / scale
    axes = np.linalg.svd(centred, full_matrices=False)[2]
    along = centred @ axes.T
    extents = np.ptp(along, axis=0)
    if extents[0] <= FLAT:
        return [0]
    if len(extents) < 2 or extents[1] <= FLAT:
        return [int(along[:, 0].argmin()), int(along[:, 0].argmax())]
    return [int(index) for index in ConvexHull(centred).vertices]


def area(polygon: Points) -> float:
    """The area inside a polygon (n, 2) whose corners go counter-clockwise; 0 for a point or a segment."""
    if len(polygon) < 3:
        return 0.0
    x, y = (polygon - polygon[0]).T  # near the origin, so that far away polygons lose no digits
    return float(0.5 * (x * np.roll(y, -1) - y * np.roll(x, -1)).sum())


def intersection(subject: Points, clip: Points) -> Points:
    """The corners (n, 2), counter-clockwise, of what two convex polygons share; (0, 2) if they share no area.

    ``subject`` is cut with each edge of ``clip`` in turn (Sutherland and Hodgman, CACM 1974). Both counter-clockwise.
    """
    nothing = np.empty((0, 2))
    if len(subject) < 3 or len(clip) < 3:
        return nothing
    shape = subject
    for start, end in zip(clip, np.roll(clip, -1, axis=0), strict=True):
        edge = end - start
        side = edge[0] * (shape[:, 1] - start[1]) - edge[1] * (shape[:, 0] - start[0])  # > 0: inside
        corners = []
        for here, there, a, b in zip(shape, np.roll(shape, -1, axis=0), side, np.roll(side, -1), strict=True):
            if a >= 0:
                corners.append(here)
            if (a > 0 > b) or (a < 0 < b):
                corners.append(here + (there - here) * (a / (a - b)))
        if len(corners) < 3:
            return nothing
        shape = np.array(corners)
    return shape
