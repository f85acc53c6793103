"""Private training images as pictures, for pages that stay on this machine."""

from __future__ import annotations

from pathlib import Path

from mibench.data import cache_folder, load
from mibench.data.tracked import is_tracked
from mibench.errors import UserError
from mibench.protocol.tracks import Track
from mibench.store.atomic import write_file


def private_image(track: Track, home: Path, label: int, index: int) -> Path | None:
    """The ``index``-th private training image, which is of class ``label``, as a PNG under ``home``; None where the
    data is not here or has no such image."""
    folder = cache_folder(track, home)
    try:
        if is_tracked(track):
            folder = folder.with_name(f"{folder.name}-{load(track, home).split[:16]}")
    except UserError:
        return None
    path = home / "cache" / "private" / folder.name / f"{index}.png"
    if not path.is_file():
        from PIL import Image

        try:
            images, labels = load(track, home).private_train()
        except UserError:
            return None
        if not 0 <= index < len(labels) or labels[index] != label:
            return None
        pixels = images[index]
        with write_file(path) as scratch:
            Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(scratch, "PNG")
    return path
