"""The encoder blurs the picture where the latent of a model is broken, and nowhere else."""

import numpy as np
import pytest
import torch

from agvae.codec import Codec, calming
from agvae.metrics import psnr


@pytest.fixture(scope="module")
def codec():
    return Codec.load("agvae-mse")


@pytest.fixture(scope="module")
def striped(photo):
    """A photo, 192×192, with a patch of one-pixel stripes of black and white."""
    pixels = np.asarray(photo)[40:232, 150:342].copy()
    pixels[64:128, 64:128] = np.arange(64)[:, None] % 2 * 255
    return pixels


def test_a_patch_of_stripes_is_smaller_and_better_than_without(codec, striped, monkeypatch):
    calm = codec.analyze(striped)
    monkeypatch.setattr(calming, "_BROKEN", float("inf"))
    plain = codec.analyze(striped)
    files = [codec.compress(latent, quality=2.5, lossless=False) for latent in (calm, plain)]
    assert len(files[0]) < 0.8 * len(files[1])
    metrics = [psnr(striped, codec.decompress(data)) for data in files]
    assert metrics[0] > metrics[1]


@pytest.mark.parametrize("name", ["agvae-mse", "agvae-small-mse"])
def test_a_photo_stays_as_it_is(name, photo):
    codec = Codec.load(name)
    pixels = np.asarray(photo)[40:232, 150:342]
    y = codec.analyze(pixels).y

    def again(_):
        raise AssertionError("analysed again")

    assert calming.calmed(codec.model, pixels, y, again) is y
    assert not calming.broken(codec.model, y).any()


@torch.inference_mode()
def test_only_the_places_that_are_broken_and_their_surroundings_are_blurred(tiny_model, monkeypatch):
    """Two more places on each side are blurred, because g_a reads them too."""
    monkeypatch.setattr(calming, "_BROKEN", 1.0)  # the tiny model has few channels
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (150, 200, 3), dtype=np.uint8)
    y = torch.zeros(1, 12, 12, 16)
    y[..., 4, 8] = 1e9
    given = []

    def analyze(blurred):
        given.append(blurred)
        return torch.zeros_like(y)

    assert not calming.calmed(tiny_model, pixels, y, analyze).any()
    changed = (given[0] != pixels).any(2)
    inside = np.zeros_like(changed)
    inside[2 * 16 : 7 * 16, 6 * 16 : 11 * 16] = True
    assert len(given) == 1
    assert not changed[~inside].any()
    assert changed[inside].mean() > 0.99


@torch.inference_mode()
def test_a_place_that_stays_broken_is_blurred_more_and_then_left(tiny_model, monkeypatch):
    monkeypatch.setattr(calming, "_BROKEN", 1.0)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    y, given = torch.full((1, 12, 4, 4), 1e9), []
    assert calming.calmed(tiny_model, pixels, y, lambda blurred: given.append(blurred) or y) is y
    spreads = [blurred.std() for blurred in given]
    assert spreads == sorted(spreads, reverse=True)
    assert len(spreads) == len(calming._RADII)
