"""The search of the encoder: never worse, always on target, deterministic, and readable by every decoder."""

import copy
import math

import numpy as np
import pytest
import torch
from conftest import TINY, lively_model

from agvae.codec import Codec, bitstream, effort, model_file, refinement
from agvae.codec.refinement import LADDERS, Refiner
from agvae.errors import ConfigError
from agvae.images import Picture
from agvae.metrics import psnr
from agvae.models.context import CONTEXTS

LOSS = {"loss": {"name": "mse", "lambdas": [0.001, 0.01, 0.04]}}


def codec_of(context="checkerboard", info=LOSS):
    config = copy.deepcopy(TINY) | {"context": {"name": context}}
    return Codec(model_file.from_model(lively_model(config), info))


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(effort, "STEPS", (0, 10, 20, 30))
    monkeypatch.setattr("agvae.codec.codec.STEPS", effort.STEPS)


@pytest.fixture
def crop(photo):
    """A crop whose sides are not multiples of the model's stride."""
    return np.asarray(photo)[100:150, 60:150].copy()


@pytest.mark.parametrize(("context", "quality"), [(name, 1.3) for name in CONTEXTS] + [("checkerboard", 0)])
def test_file_is_never_worse_and_any_decoder_reads_it(few_steps, crop, context, quality):
    codec = codec_of(context)
    picture = Picture(crop)
    plain, refined = (codec.compress(crop, quality=quality, effort=e, lossless=False) for e in (0, 1))
    assert codec.search.cost(refined, picture) < codec.search.cost(plain, picture)
    other = codec_of(context)
    assert np.array_equal(np.asarray(other.decompress(refined)), np.asarray(codec.decompress(refined)))
    assert bitstream.unpack(refined)[0].quality == bitstream.unpack(plain)[0].quality


def test_same_input_gives_the_same_file(few_steps, crop):
    files = {codec_of().compress(crop, quality=1, effort=1, lossless=False) for _ in range(2)}
    assert len(files) == 1


def test_no_steps_change_nothing(crop):
    codec = codec_of()
    latent = codec.analyze(crop)
    again = codec.search.refine(latent, 1500, 0)
    assert len({codec.compress(each, quality=1500 / 1024, lossless=False) for each in (again, latent)}) == 1
    first = codec.compress(crop, quality=1, effort=0, lossless=False)
    assert codec.compress(crop, quality=1, lossless=False) == first


def test_targets_hold(few_steps, crop):
    codec = codec_of()
    plain = codec.compress(crop, quality=1.2, lossless=False)
    size = len(plain)
    refined = codec.compress(crop, bytes=size, effort=2, lossless=False)
    assert 0.99 * size <= len(refined) <= size
    picture = Picture(crop)
    assert codec.search.distortion(refined, picture) <= codec.search.distortion(
        codec.compress(crop, bytes=size, lossless=False), picture
    )

    target = psnr(crop, codec.decompress(plain))
    refined = codec.compress(crop, psnr=target, effort=2, lossless=False)
    assert target <= psnr(crop, codec.decompress(refined)) <= target + 0.05
    assert len(refined) <= len(codec.compress(crop, psnr=target, lossless=False))


def test_a_large_picture_is_refined_in_tiles(monkeypatch, photo):
    codec = codec_of()
    pixels = np.asarray(photo)[:256, :192].copy()
    latent = codec.analyze(pixels)
    calls = []
    monkeypatch.setattr(refinement, "tile_side", lambda *_: 2)
    monkeypatch.setattr(refinement, "_HALO", 0)
    refined = codec.search.refine(latent, 1024, 10, lambda share, bits: calls.append((share, bits)))
    assert len(calls) == 10 * 2 * 2  # 4 × 3 hyper-latents in tiles of at most 2²
    shares, saved = np.array(calls).T
    assert np.all(np.diff(shares) > 0)
    assert shares[-1] == 1
    assert np.all(np.diff(saved) >= 0)
    assert saved[-1] > 0
    costs = [codec.search.cost(codec.compress(v, quality=1, lossless=False), latent.picture) for v in (latent, refined)]
    # The surroundings of a tile are fixed, so the savings nearly add up.
    assert costs[1] < costs[0] - 0.5 * saved[-1]


def test_surroundings_of_a_tile_stay_as_they_are(monkeypatch, photo):
    codec = codec_of()
    pixels = np.asarray(photo)[:384, :256].copy()
    latent = codec.analyze(pixels)
    first = refinement.tiles(6, 4, 2, 1)[:1]
    monkeypatch.setattr(refinement, "tiles", lambda *_: first)
    refined = codec.search.refine(latent, 1024, 10)
    changed = (refined.y - latent.y).abs() > 1e-4
    assert changed[..., :8, :8].any()
    assert not changed[..., 8:, :].any()
    assert not changed[..., 8:].any()


def test_progress_reports_share_and_bits(few_steps, crop):
    shares, saved = [], []
    codec_of().compress(crop, quality=1, effort=1, lossless=False, progress=shares.append, saved=saved.append)
    assert sorted(shares) == shares
    assert shares[-1] == 1
    assert saved[-1] > 0


def test_effort_out_of_range_is_an_error(crop):
    with pytest.raises(ValueError, match="effort must be from 0 to 3, not 4"):
        codec_of().compress(crop, quality=1, effort=4)


def test_lambda_is_the_levels_own_and_their_geometric_mean_between(tiny_model):
    refiner = Refiner(copy.deepcopy(tiny_model), LOSS)
    assert [refiner.lagrangian(q) for q in range(3)] == pytest.approx(LOSS["loss"]["lambdas"])
    assert refiner.lagrangian(1.5) == pytest.approx(math.sqrt(0.01 * 0.04))
    older = Refiner(copy.deepcopy(tiny_model), {"loss": {"name": "msssim"}})
    assert [older.lagrangian(q) for q in (0, 2)] == pytest.approx([LADDERS["msssim"][0], LADDERS["msssim"][-1]])


@pytest.mark.parametrize("info", [{}, {"loss": None}, {"loss": {"name": "lpips"}}])
def test_a_model_of_unknown_loss_has_no_effort(few_steps, crop, info):
    codec = codec_of(info=info)
    assert codec.compress(crop, quality=1)
    with pytest.raises(ConfigError, match="effort must be 0"):
        codec.compress(crop, quality=1, effort=1)


def test_ms_ssim_is_refined_on_small_pictures_too(few_steps, crop):
    codec = codec_of(info={"loss": {"name": "msssim"}})
    picture = Picture(crop)
    plain, refined = (codec.compress(crop, quality=1, effort=e, lossless=False) for e in (0, 1))
    assert codec.search.cost(refined, picture) <= codec.search.cost(plain, picture)


@pytest.mark.slow
def test_shipped_model_saves_bits(photo):
    codec = Codec.load("agvae-small-mse")
    picture = Picture(np.asarray(photo)[128:256, 128:256].copy())
    plain, refined = (codec.compress(picture, quality=2, effort=e) for e in (0, 1))
    assert codec.search.cost(refined, picture) < 0.995 * codec.search.cost(plain, picture)
    torch.testing.assert_close(
        codec.search.distortion(plain, picture), codec.search.distortion(refined, picture), rtol=0.1, atol=0
    )
