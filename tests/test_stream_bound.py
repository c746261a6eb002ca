"""The bound on the activations of depthwise networks: no picture makes a model fail, and photos stay below it."""

import numpy as np
import pytest

from agvae import shipped
from agvae.codec import Codec
from agvae.models import layers

ROW, COLUMN = np.mgrid[:128, :128]
PATTERNS = {
    "stripes across": ROW % 2,
    "stripes down": COLUMN % 2,
    "squares of 3 pixels": (ROW // 3 + COLUMN // 3) % 2,
}


def hard_pictures():
    """Pictures with the largest possible contrasts, (128, 128, 3) uint8."""
    for pattern in PATTERNS.values():
        yield np.repeat(pattern[..., None], 3, 2).astype(np.uint8) * 255
    squares = ((ROW + COLUMN) % 2)[..., None]
    yield np.where(squares, [255, 0, 128], [0, 255, 127]).astype(np.uint8)


@pytest.mark.parametrize("name", shipped.names())
def test_shipped_models_code_the_hardest_pictures(name):
    codec = Codec.load(name)
    for picture in hard_pictures():
        assert codec.decompress(codec.compress(picture, quality=codec.levels - 1)).size == (128, 128)


def test_the_bound_changes_no_symbol_of_a_photo(photo, monkeypatch):
    crop = photo.crop((100, 0, 228, 128))
    codec = Codec.load("agvae-mse")
    bounded = codec.compress(crop, quality=codec.levels - 1)
    pixels = np.array(codec.decompress(bounded))
    monkeypatch.setattr(layers, "STREAM_BOUND", float("inf"))
    assert codec.compress(crop, quality=codec.levels - 1) == bounded
    assert np.array_equal(np.array(codec.decompress(bounded)), pixels)


def test_the_bound_holds_for_every_block(monkeypatch):
    """The kernel, which computes the blocks here, applies it too. Without it, these pictures cannot be coded."""
    codec, picture = Codec.load("agvae-mse"), next(hard_pictures())
    monkeypatch.setattr(layers, "STREAM_BOUND", float("inf"))
    with pytest.raises(ValueError, match="a symbol lies past"):
        codec.compress(picture, quality=codec.levels - 1)
