"""Bytes to pixels: decoding with every damage named, and the exact preprocessing of the protocols.

All operations are Pillow's on 8-bit images. torchvision's transforms of Pillow images (``Resize``, ``CenterCrop``) call
the same functions with the same sizes; tests/unit/test_sets.py compares them. Importing Pillow alone keeps torch out of
the decoding processes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable

import numpy as np
from PIL import ExifTags, Image

from mibench.data.sets.base import Step

Box = tuple[int, int, int, int]
STRIP = 100  # times as long as wide: no photo, and resized by its shorter side it would fill the memory
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
READERS = ("photo", "imagefolder", "opencv")
"""How a file becomes 8-bit pixels. ``photo``: transparency lies on white, 16 bits are divided by 257, floats are 0 to
1. ``imagefolder``: Pillow's ``convert("RGB")`` alone, as torchvision's ImageFolder: transparency is dropped, what
exceeds 8 bits is as Pillow has it. ``opencv``: as ``photo``, but transparency is dropped."""


class DamagedImage(Exception):
    """Bytes that are no whole image; the message says what Pillow met."""


def decode(content: bytes, mode: str, upright: bool = False, reader: str = "photo") -> Image.Image:
    """A whole image in ``mode``; ``upright`` turns a photo as its camera noted. Raises DamagedImage."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                return to_mode(as_noted(image) if upright else image, mode, reader)
    except Image.UnidentifiedImageError:
        what = "the file is empty" if not content else "not an image"
        raise DamagedImage(what) from None
    except Exception as error:  # what damaged headers lead to differs from format to format
        raise DamagedImage(" ".join(str(error).split())[:200] or type(error).__name__) from None


def as_noted(image: Image.Image) -> Image.Image:
    """The image turned as its camera noted. The other tags are not looked at, and one that cannot be read does not
    condemn a photo: where that hides the camera's note, the image stays as it lies."""
    try:
        turn = _TURNS.get(image.getexif()[ExifTags.Base.Orientation])
    except Exception:  # as many ways as there are tags
        return image
    return image if turn is None else image.transpose(turn)


def to_mode(image: Image.Image, mode: str, reader: str = "photo") -> Image.Image:
    """RGB or 8-bit grey, as the reader has it; see ``READERS``. The range follows from the format, never from the
    values: one set of images keeps its brightness. Raises DamagedImage for values outside it."""
    if reader == "imagefolder":
        rgb = image.convert("RGB")
        return rgb if mode == "RGB" else rgb.convert(mode)
    if image.mode.startswith("I") or image.mode == "F":
        values, most = np.asarray(image, np.float64), 1.0 if image.mode == "F" else 65535.0
        if not (values.size and np.isfinite(values).all() and 0 <= values.min() <= values.max() <= most):
            kind = "floating-point pixels, expected 0 to 1" if most == 1 else "pixels of more than 16 bits"
            raise DamagedImage(f"it has {kind}; save it with 8 or 16 bits")
        image = Image.fromarray(np.rint(values * (255 / most)).astype(np.uint8))
    if image.has_transparency_data and reader != "opencv":
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def apply(image: Image.Image, steps: Iterable[Step], box: Box | None = None) -> np.ndarray:
    """The preprocessed image, uint8 (C, H, W). Steps:

    ``("crop", left, top, right, bottom)``; ``("box",)`` crops to the image's bounding box, if it has one;
    ``("centre", n)`` is torchvision's ``CenterCrop(n)`` of an image that is not smaller; ``("resize", n)`` its
    ``Resize((n, n))``, bilinear; ``("shorter", n)`` its ``Resize(n)``, which keeps the aspect ratio. Raises
    DamagedImage for a strip that cannot keep it.
    """
    for name, *values in steps:
        if name == "crop":
            image = image.crop(tuple(values))  # type: ignore[arg-type]
        elif name == "box":
            image = image.crop(box) if box else image
        elif name == "centre":
            (n,) = values
            left, top = round((image.width - n) / 2), round((image.height - n) / 2)
            image = image.crop((left, top, left + n, top + n))
        elif name in ("resize", "shorter"):
            (n,) = values
            size = (n, n) if name == "resize" else _shorter(image.size, n)
            image = image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)
        else:
            raise ValueError(f"There is no preprocessing step {name!r}.")
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _shorter(size: tuple[int, int], n: int) -> tuple[int, int]:
    width, height = size
    if max(size) > STRIP * min(size):
        raise DamagedImage(f"it is {width}x{height}, over {STRIP} times as long as wide")
    return (n, int(n * height / width)) if width <= height else (int(n * width / height), n)
