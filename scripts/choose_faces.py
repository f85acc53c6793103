"""Choose the samples of the DigiFace generator that serve as public faces: writes mibench/data/digiface_faces.json.

    python scripts/choose_faces.py            about 5 minutes on one core

A sample is chosen if MTCNN finds one face in it and is sure of it, if it is neither dark nor flat, and if what
surrounds the face is darker than the face, as in the public AT&T/ORL photos. The script also prints where MTCNN finds
eyes, nose and mouth in these photos and in the samples, and how bright the photos' middles are: ``FRAME`` and ``LIGHT``
in mibench/data/digiface.py are these figures. It opens no private photo.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from facenet_pytorch import MTCNN
from PIL import Image

from mibench.data import digiface, framing, orl
from mibench.registry import Registry
from mibench.resources import resource_root

COUNT = 20_480
SURE = 0.995
DARKEST, FLATTEST = 40, 15  # mean and standard deviation of a sample's middle
DARKER = 0.3  # of this standard deviation: by so much the surroundings are at least darker
UPSCALED = 192


def landmarks(detector: MTCNN, images: list[np.ndarray]) -> list[np.ndarray | None]:
    """Two eyes, nose and two corners of the mouth, (5, 2) as fractions of the side, where one face is sure."""
    big = [
        np.asarray(Image.fromarray(image).resize((UPSCALED, UPSCALED), Image.Resampling.BICUBIC)) for image in images
    ]
    _, sure, points = detector.detect([np.repeat(image[..., None], 3, 2) for image in big], landmarks=True)
    return [
        np.asarray(found[0], float) / UPSCALED if p[0] is not None and len(p) == 1 and p[0] > SURE else None
        for p, found in zip(sure, points, strict=True)
    ]


def well_lit(sample: np.ndarray) -> bool:
    face = framing.framed(sample).astype(float)
    middle = face[framing.MIDDLE]
    around = np.concatenate([part.ravel() for part in (face[:20, :8], face[:20, -8:], face[20:, :4], face[20:, -4:])])
    clear = middle.mean() >= DARKEST and middle.std() >= FLATTEST
    return bool(clear and around.mean() <= middle.mean() - DARKER * middle.std())


def main() -> None:
    torch.set_num_threads(1)
    detector = MTCNN(keep_all=True, post_process=False, device="cpu")
    _, public = orl.split(Registry(resource_root()).track("orl64"))
    photos = [orl.crop(person.folder, photo) for person in public for photo in person.train]
    middles = np.stack([orl.resized(photo, framing.SIDE) for photo in photos])[:, *framing.MIDDLE].astype(float)
    light = middles.mean((1, 2)), middles.std((1, 2))
    print("public photos: mean and spread of the middles' mean and contrast", [(p.mean(), p.std()) for p in light])
    print("public photos:", np.mean([p for p in landmarks(detector, photos) if p is not None], 0).round(3).tolist())
    chosen, found, number = [], [], 0
    for batch in digiface.raw_samples(COUNT, digiface.SEED):
        for sample, points in zip(batch, landmarks(detector, list(batch)), strict=True):
            if points is not None:
                found.append(points)
                if well_lit(sample):
                    chosen.append(number)
            number += 1
        print(f"{len(chosen)} of {number}", file=sys.stderr)
    print("samples:", np.mean(found, 0).round(3).tolist())
    framing.CHOSEN.write_text(json.dumps(chosen, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
