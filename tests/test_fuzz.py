"""Damaged files: a real file with any damage gives the right picture or a BitstreamError.

Each case is drawn from its own number. `pytest tests/test_fuzz.py -k "[17]"` repeats the block that a failure names.
"""

import numpy as np
import pytest
from conftest import lively_model
from PIL import Image, ImageCms

from agvae.codec import BitstreamError, Codec, bitstream, model_file

CASES, BLOCK = 2000, 50
FAST = 200

MAX_PIXELS = 2**22
"""A random header can then not demand an hour of work. The tests of hostile sizes have their own limit."""


class Sample:
    """A real file, and the picture that it holds."""

    def __init__(self, codec, image, **options):
        self.data = codec.compress(image, **options)
        self.picture = content(codec.decompress(self.data))


def content(image):
    """Everything that a decoded file contains, in comparable form."""
    words = sorted((key, value) for key, value in image.info.items() if isinstance(value, str | bytes))
    return image.mode, image.size, image.tobytes(), words


def laden(photo):
    """A picture with alpha and all metadata that a file can carry."""
    full = photo.crop((300, 200, 364, 264)).convert("LA")
    full.putalpha(Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)))
    exif = Image.Exif()
    exif[0x010E] = "a description that is long enough to be hit"
    full.info["exif"] = exif.tobytes()
    full.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    full.info["xmp"] = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'></x:xmpmeta>"
    full.info["Title"] = "words of a file"
    return full


def samples_of(codec, photo):
    """Files of all kinds.

    Two hold pictures, one of them past the last level. One holds everything that a file can carry. Two are lossless."""
    pictures = (photo.crop((0, 0, 192, 128)), photo.crop((210, 80, 274, 144)), laden(photo))
    qualities = (0.25 * codec.levels - 0.25, codec.last_quality, 0.5 * codec.levels - 0.5)
    learned = [Sample(codec, p, quality=q, lossless=False) for p, q in zip(pictures, qualities, strict=True)]
    return [*learned, *(Sample(codec, picture, lossless=True) for picture in pictures[1:])]


@pytest.fixture(scope="module")
def corpus(photo):
    """A codec and its files, for each context."""
    from conftest import TINY

    made = []
    for context in ("none", "checkerboard", "multiscale", "quadtree"):
        codec = Codec(model_file.from_model(lively_model(TINY | {"context": {"name": context}})))
        made.append((codec, samples_of(codec, photo)))
    return made


def parts(data):
    """The header and the body of a file. A lossless body includes its checksum."""
    header = bitstream.unpack(data).header
    start, length = header.to_bytes(), 1
    while data[len(start) + length - 1] > 127:
        length += 1
    return header, data[len(start) + length :]


def join(header, body):
    """A file made of a header and a body. Its checksum may be wrong."""
    learned = header._replace(kind=bitstream.Kind.LEARNED)
    length = bitstream.pack(learned, body)[len(learned.to_bytes()) : -len(body) or None]
    return header.to_bytes() + length + body


def flip(data, other, rng):
    """Flip one to eight bits."""
    data = bytearray(data)
    for bit in rng.integers(8 * len(data), size=rng.integers(1, 9)):
        data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


def set_byte(data, other, rng):
    """Set one byte, mostly in the header."""
    data = bytearray(data)
    data[rng.integers(min(len(data), 30) if rng.random() < 0.7 else len(data))] = rng.choice([0, 1, 127, 128, 255])
    return bytes(data)


def cut(data, other, rng):
    """Cut off the end or the beginning."""
    at = rng.integers(len(data))
    return data[:at] if rng.random() < 0.7 else data[at:]


def splice(data, other, rng):
    """Join the beginning of one file and the end of another."""
    return data[: rng.integers(len(data))] + other[rng.integers(len(other)) :]


def swap_stream(data, other, rng):
    """Join the header of one file and the stream of another, both whole."""
    return join(parts(data)[0], parts(other)[1])


def random_header(data, other, rng):
    """Put a valid header with random sizes and quality before a real stream."""
    header, stream = parts(data)
    width, height = (2 ** rng.uniform(0, 12, 2)).astype(int).tolist()
    quality = int(rng.integers(2049))
    changes = {"width": width, "height": height, "quality": quality, "grey": bool(rng.integers(2))}
    keep = rng.choice([*changes, "nothing"])
    changes.pop(keep, None)
    if rng.random() < 0.3:
        changes |= {"alpha": rng.bytes(20), "exif": b"", "text": rng.bytes(9)}
    if rng.random() < 0.1:
        changes |= {"kind": bitstream.Kind(rng.integers(3))}
    return join(header._replace(**changes), stream)


def change_stream(data, other, rng):
    """Drop, add, double or move bytes of the stream. The header has the right length."""
    header, stream = parts(data)
    return join(header, insert_or_delete(stream, other, rng))


def insert_or_delete(data, other, rng):
    """Drop, double, move or insert a run of bytes."""
    start, stop = sorted(rng.integers(len(data) + 1, size=2))
    stop = min(stop, start + 64)
    run, kind = data[start:stop], rng.integers(4)
    if kind == 0:
        return data[:start] + data[stop:]
    if kind == 1:
        return data[:stop] + run + data[stop:]
    if kind == 2:
        return data[:start] + rng.bytes(int(rng.integers(1, 64))) + data[start:]
    rest = data[:start] + data[stop:]
    at = rng.integers(len(rest) + 1)
    return rest[:at] + run + rest[at:]


def replace_all(data, other, rng):
    """Put noise after the first four bytes, or after the header."""
    header, stream = parts(data)
    return join(header, rng.bytes(len(stream))) if rng.random() < 0.5 else data[:4] + rng.bytes(len(data))


MUTATIONS = (flip, set_byte, cut, splice, swap_stream, random_header, change_stream, insert_or_delete, replace_all)


@pytest.mark.parametrize(
    "block", [pytest.param(b, marks=[pytest.mark.slow] if b * BLOCK >= FAST else []) for b in range(CASES // BLOCK)]
)
def test_a_damaged_file_gives_the_right_picture_or_an_error(corpus, block):
    refused = 0
    for case in range(block * BLOCK, (block + 1) * BLOCK):
        rng = np.random.default_rng(case)
        codec, samples = corpus[case % len(corpus)]
        sample, other = (samples[i] for i in rng.integers(len(samples), size=2))
        mutation = MUTATIONS[case // len(corpus) % len(MUTATIONS)]
        data = mutation(sample.data, other.data, rng)
        try:
            found = content(codec.decompress(data, max_pixels=MAX_PIXELS))
        except BitstreamError:
            refused += 1
            continue
        except Exception as error:
            raise AssertionError(f"case {case}, {mutation.__name__}: {error!r}") from error
        # Some mutations change nothing, or give the whole other file.
        right = [s.picture for s in samples if s.data == data]
        assert found in right, f"case {case}, {mutation.__name__}: decodes to another picture"
    assert refused > BLOCK / 2
