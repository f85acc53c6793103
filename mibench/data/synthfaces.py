"""Procedural faces: soft shapes whose geometry is the identity; pose, light and expression vary per image.

Nobody's faces, any number of identities, any resolution, no files. Too easy for claims: for tests and load.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mibench.data import sources
from mibench.data.sources import Arrays, shuffled
from mibench.keys import stream_seed
from mibench.protocol.tracks import Track

RECIPE_VERSION = 1
SEED = 0
FIRST_PUBLIC = 2**32  # private identities count from 0, public ones from here
_DEFAULT_PUBLIC_IDENTITIES = 40
_CHUNK = 2**16  # pixels computed together: the working arrays stay in the processor's cache

Grid = np.ndarray  # float32 (n, R, R), or (n, 1, 1) for one value per image

_IDENTITY: dict[str, tuple[float, float]] = {
    "skin": (0.45, 0.9),
    "head_width": (0.46, 0.62),
    "head_height": (0.66, 0.82),
    "jaw": (-0.05, 0.32),
    "ear": (0.07, 0.15),
    "hair": (0.04, 0.7),
    "hairline": (0.3, 0.6),
    "parting": (-0.3, 0.3),
    "fringe": (-0.25, 0.35),
    "volume": (0.02, 0.16),
    "hair_length": (0.0, 1.0),
    "eye_distance": (0.19, 0.29),
    "eye_height": (-0.16, 0.02),
    "eye_width": (0.075, 0.125),
    "eye_open": (0.035, 0.07),
    "iris": (0.03, 0.4),
    "brow_gap": (0.09, 0.17),
    "brow_width": (0.09, 0.15),
    "brow_thickness": (0.012, 0.04),
    "brow_tilt": (-0.3, 0.3),
    "nose_length": (0.2, 0.34),
    "nose_width": (0.05, 0.12),
    "mouth_height": (0.36, 0.5),
    "mouth_width": (0.13, 0.25),
    "lips": (0.02, 0.06),
    "lip_tone": (0.45, 0.8),
    "has_glasses": (0.0, 1.0),
    "glasses_size": (0.12, 0.17),
    "glasses_tone": (0.02, 0.35),
    "has_beard": (0.0, 1.0),
    "beard_top": (0.22, 0.5),
    "has_moustache": (0.0, 1.0),
    "clothes": (0.05, 0.95),
}
_BEND = "smile"  # of the mouth
_IMAGE: dict[str, tuple[float, float]] = {
    "shift_x": (-0.06, 0.06),
    "shift_y": (-0.06, 0.06),
    "rotation": (-0.08, 0.08),  # radians
    "zoom": (0.96, 1.04),
    "yaw": (-0.06, 0.06),
    "pitch": (-0.05, 0.05),
    "light_x": (-0.2, 0.2),
    "light_y": (-0.15, 0.1),
    "exposure": (0.9, 1.1),
    "background": (0.2, 0.4),
    _BEND: (-0.5, 1.5),
    "open": (-0.06, 0.06),
    "blink": (0.55, 1.1),
    "raise": (-0.03, 0.03),
    "noise": (0.01, 0.035),
}


def describe(track: Track) -> dict[str, Any]:
    """Everything that fixes the track's images; see ``mibench.data.fingerprint``."""
    _check_counts(track)
    return {
        "source": "synthfaces",
        "recipe": RECIPE_VERSION,
        "seed": SEED,
        "resolution": track.resolution,
        "identity": _IDENTITY,
        "image": _IMAGE,
        "private": track.private.model_dump(),
        "public": {
            "first": FIRST_PUBLIC,
            "identities": _public_identities(track),
            "images": sources.counts(track).public,
        },
    }


def build(track: Track) -> Arrays:
    """Private identities 0, 1, ...: their first images train, the next ones test. Others are public."""
    _check_counts(track)
    private, people = sources.counts(track), _public_identities(track)

    def images(identities: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return faces(identities, numbers, track.resolution, SEED)

    train_labels = np.repeat(np.arange(private.identities), private.train)
    test_labels = np.repeat(np.arange(private.identities), private.test)
    train_numbers = np.tile(np.arange(private.train), private.identities)
    test_numbers = private.train + np.tile(np.arange(private.test), private.identities)
    order = np.array(shuffled(range(private.public), "synthfaces", "public order"))
    public_labels = order % people
    public = images(FIRST_PUBLIC + public_labels, order // people)
    return {
        "private_train_images": images(train_labels, train_numbers),
        "private_train_labels": train_labels.astype(np.int64),
        "private_test_images": images(test_labels, test_numbers),
        "private_test_labels": test_labels.astype(np.int64),
        "public_images": public,
        "public_labels": public_labels.astype(np.int64),
        "labelled_images": public,
        "labelled_labels": public_labels.astype(np.int64),
    }


def problems(track: Track) -> list[str]:
    """Nothing can be missing."""
    _check_counts(track)
    return []


def faces(identities: np.ndarray, images: np.ndarray, resolution: int, seed: int) -> np.ndarray:
    """Image number ``images[i]`` of person ``identities[i]``: uint8 (N, 1, R, R).

    An image depends on its two numbers, the resolution and the seed, not on the others computed with it.
    """
    identities, images = np.broadcast_arrays(np.asarray(identities, np.int64), np.asarray(images, np.int64))
    result = np.empty((len(identities), 1, resolution, resolution), np.uint8)
    step = max(1, _CHUNK // resolution**2)
    for start in range(0, len(identities), step):
        part = slice(start, start + step)
        result[part, 0] = _render(identities[part], images[part], resolution, seed)
    return result


def _render(identities: np.ndarray, images: np.ndarray, resolution: int, seed: int) -> np.ndarray:
    who = {
        name: _draw(bounds, _hash(stream_seed("synthfaces", seed, name), identities))
        for name, bounds in _IDENTITY.items()
    }
    how = {
        name: _draw(bounds, _hash(stream_seed("synthfaces", seed, name), identities, images))
        for name, bounds in _IMAGE.items()
    }
    soft = np.float32(2.0 / max(resolution, 24))  # width of an edge: one pixel, but never razor-sharp
    x, y = _pose(how, resolution)
    canvas = _background(how, x, y) + np.zeros_like(x)
    canvas = _body(canvas, who, x, y, soft)
    canvas = _head(canvas, who, how, x, y, soft)
    canvas = _features(canvas, who, how, x - how["yaw"], y - how["pitch"], soft)
    canvas = canvas * how["exposure"] + _noise(how["noise"], identities, images, resolution, seed)
    return np.rint(np.clip(canvas, 0, 1) * np.float32(255)).astype(np.uint8)


def _pose(how: dict[str, Grid], resolution: int) -> tuple[Grid, Grid]:
    """Each pixel's place in the face's own coordinates: the head is about 1.1 wide, y points down."""
    axis = ((np.arange(resolution, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / resolution)) - np.float32(1)
    x, y = axis[None, None, :] - how["shift_x"], axis[None, :, None] - how["shift_y"]
    cos, sin = np.cos(how["rotation"]) / how["zoom"], np.sin(how["rotation"]) / how["zoom"]
    return x * cos + y * sin, y * cos - x * sin


def _background(how: dict[str, Grid], x: Grid, y: Grid) -> Grid:
    return how["background"] + np.float32(0.2) * (how["light_x"] * x + how["light_y"] * y)


def _body(canvas: Grid, who: dict[str, Grid], x: Grid, y: Grid, soft: np.float32) -> Grid:
    """Long hair behind the head, neck, shoulders."""
    long_hair = _step((who["hair_length"] - np.float32(0.62)) * 20, np.float32(1))
    length = np.float32(0.75) + np.float32(0.35) * who["hair_length"]
    behind = _ellipse(x, y - np.float32(0.1), who["head_width"] + np.float32(0.13), length, soft)
    canvas = _paint(canvas, behind * long_hair, who["hair"] * np.float32(0.85))
    neck = _step(np.float32(0.26) - np.abs(x), soft) * _step(y - np.float32(0.4), soft)
    canvas = _paint(canvas, neck, who["skin"] * np.float32(0.75))
    return _paint(canvas, _ellipse(x, y - np.float32(1.35), np.float32(0.95), np.float32(0.5), soft), who["clothes"])


def _head(canvas: Grid, who: dict[str, Grid], how: dict[str, Grid], x: Grid, y: Grid, soft: np.float32) -> Grid:
    """Ears, skin with its shading, beard, hair."""
    width, height = who["head_width"], who["head_height"]
    for side in (-1, 1):
        ear = _ellipse(x - side * width, y - np.float32(0.02), who["ear"], np.float32(0.15), soft)
        canvas = _paint(canvas, ear, who["skin"] * np.float32(0.88))
    taper = 1 + who["jaw"] * np.maximum(y, 0)  # a narrow jaw is the upper ellipse, squeezed below the eyes
    inside = _ellipse(x * taper, y, width, height, soft)
    round_off = (x / width) ** 2 + (y / height) ** 2
    shade = 1 + how["light_x"] * x + how["light_y"] * y - np.float32(0.18) * round_off
    skin = who["skin"] * shade
    canvas = _paint(canvas, inside, skin)

    has_beard = (who["has_beard"] > np.float32(0.68)).astype(np.float32)
    edge = who["beard_top"] - np.float32(0.9) * (x / width) ** 2 * who["beard_top"]
    beard = inside * _step(y - how["pitch"] - edge, 3 * soft) * has_beard
    canvas = _paint(canvas, beard * np.float32(0.8), who["hair"] * np.float32(0.9) + np.float32(0.03))

    top = _ellipse(x, y + np.float32(0.03), width + who["volume"], height + who["volume"], soft)
    line = who["hairline"] + who["fringe"] * (x / width) ** 2 + who["parting"] * x
    cap = top * _step(-y - line, 2 * soft)
    strands = 1 + np.float32(0.5) * (how["light_x"] * x + how["light_y"] * y)
    return _paint(canvas, cap, who["hair"] * strands)


def _features(canvas: Grid, who: dict[str, Grid], how: dict[str, Grid], x: Grid, y: Grid, soft: np.float32) -> Grid:
    """Eyes, brows, nose, mouth, moustache, glasses."""
    has_glasses = (who["has_glasses"] > np.float32(0.65)).astype(np.float32)
    has_moustache = (who["has_moustache"] > np.float32(0.72)).astype(np.float32)
    eye_y = y - who["eye_height"]
    for side in (-1, 1):
        eye_x = x - side * who["eye_distance"]
        opened = who["eye_open"] * how["blink"]
        socket = _ellipse(eye_x, eye_y, who["eye_width"] * np.float32(1.35), opened * 2, 4 * soft)
        canvas = _paint(canvas, socket * np.float32(0.35), who["skin"] * np.float32(0.5))
        white = _ellipse(eye_x, eye_y, who["eye_width"], opened, soft)
        canvas = _paint(canvas, white, np.float32(0.35) + np.float32(0.55) * who["skin"])
        canvas = _paint(canvas, white * _ellipse(eye_x, eye_y, opened, opened, soft), who["iris"])
        lift = eye_y + who["brow_gap"] + how["raise"] + side * who["brow_tilt"] * eye_x
        brow = _ellipse(eye_x, lift, who["brow_width"], who["brow_thickness"], soft)
        canvas = _paint(canvas, brow * np.float32(0.9), who["hair"] * np.float32(0.7))
        distance = np.sqrt(eye_x**2 + (eye_y * np.float32(1.15)) ** 2)
        rim = _step(np.float32(0.022) - np.abs(distance - who["glasses_size"]), soft)
        canvas = _paint(canvas, rim * has_glasses, who["glasses_tone"])
    bridge = _step(np.float32(0.015) - np.abs(eye_y), soft) * _step(
        who["eye_distance"] - who["glasses_size"] - np.abs(x), soft
    )
    canvas = _paint(canvas, bridge * has_glasses, who["glasses_tone"])

    tip = eye_y - who["nose_length"]
    shaded = x + np.sign(how["light_x"]) * who["nose_width"] * np.float32(0.6)  # the side away from the light
    flank = _ellipse(shaded, tip + np.float32(0.1), who["nose_width"] / 2, np.float32(0.16), 3 * soft)
    canvas = _paint(canvas, flank * np.float32(0.35), who["skin"] * np.float32(0.55))
    nostrils = _ellipse(x, tip, who["nose_width"], np.float32(0.03), soft)
    canvas = _paint(canvas, nostrils * np.float32(0.7), who["skin"] * np.float32(0.5))

    mouth_y = y - who["mouth_height"] + how[_BEND] * np.float32(1.2) * (x**2 - np.float32(0.01))
    upper = _ellipse(x, mouth_y + np.float32(0.09), who["mouth_width"], np.float32(0.045), soft)
    canvas = _paint(canvas, upper * has_moustache, who["hair"] * np.float32(0.9))
    lips = _ellipse(x, mouth_y, who["mouth_width"], who["lips"] + np.maximum(how["open"], 0), soft)
    canvas = _paint(canvas, lips, who["skin"] * who["lip_tone"])
    gap = _ellipse(
        x,
        mouth_y,
        who["mouth_width"] * np.float32(0.85),
        np.float32(0.012) + np.maximum(how["open"], 0),
        soft,
    )
    return _paint(canvas, gap, np.float32(0.12))


def _ellipse(x: Grid, y: Grid, width: Grid | np.float32, height: Grid | np.float32, soft: Any) -> Grid:
    """1 inside the ellipse with these half axes, 0 outside, over an edge of about ``soft``."""
    across, down = x / width, y / height
    radius = np.sqrt(across**2 + down**2)
    slope = np.sqrt((across / width) ** 2 + (down / height) ** 2) + np.float32(1e-6)
    return _step((1 - radius) * (radius + np.float32(1e-6)) / slope, soft)  # distance to the edge, to first order


def _step(distance: Grid, soft: Any) -> Grid:
    """0 to 1 as ``distance`` goes from -soft to soft."""
    return np.clip(distance / (2 * soft) + np.float32(0.5), 0, 1)


def _paint(canvas: Grid, cover: Grid, tone: Any) -> Grid:
    return canvas + cover * (tone - canvas)


def _noise(amount: Grid, identities: np.ndarray, images: np.ndarray, resolution: int, seed: int) -> Grid:
    """Independent noise per pixel, triangular, standard deviation ``amount``."""
    pixels = np.arange(resolution**2, dtype=np.int64)[None]
    words = _hash(stream_seed("synthfaces", seed, "pixels"), identities[:, None], images[:, None], pixels)
    low, high = (
        (words & np.uint64(0xFFFFFFFF)).astype(np.float32),
        (words >> np.uint64(32)).astype(np.float32),
    )
    triangle = (low + high) * np.float32(2.0**-32) - np.float32(1)  # standard deviation 1 / sqrt(6)
    return amount * np.float32(6**0.5) * triangle.reshape(-1, resolution, resolution)


def _draw(bounds: tuple[float, float], words: np.ndarray) -> Grid:
    low, high = bounds
    uniform = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return (low + (high - low) * uniform).astype(np.float32)[:, None, None]


def _hash(key: int, *parts: np.ndarray) -> np.ndarray:
    """64 random bits for each combination of the (broadcast) parts: SplitMix64's finaliser, chained."""
    words = np.array(key, np.uint64)
    for part in parts:
        words = _mix(words ^ _mix(part.astype(np.uint64)))
    return words


def _mix(words: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele, Lea and Flood, OOPSLA 2014); arithmetic is modulo 2**64."""
    words = np.atleast_1d(words) + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _public_identities(track: Track) -> int:
    return min(track.public.identities or _DEFAULT_PUBLIC_IDENTITIES, sources.counts(track).public)


def _check_counts(track: Track) -> None:
    sources.one_channel(track)
    sources.nothing_generated(track)
