"""The codec codes any picture: in at most as many bytes as lossless coding, and never worse than its mean colour."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from conftest import TINY, lively_model
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agvae.codec import Codec, model_file
from agvae.codec.bitstream import Kind, pack, unpack
from agvae.metrics import psnr

sides = st.integers(1, 96)
seeds = st.integers(0, 2**32 - 1)
EXTREMES = (0, 255)


def tiled(height, width, down, across, seed, extreme):
    """A pattern of period `down` × `across`, of extreme or of random colours."""
    random = np.random.default_rng(seed)
    tile = random.choice(EXTREMES, (down, across, 3)) if extreme else random.integers(0, 256, (down, across, 3))
    return np.tile(tile, (-(-height // down), -(-width // across), 1))[:height, :width].astype(np.uint8)


def noise(height, width, seed, extreme):
    return tiled(height, width, height, width, seed, extreme)


def flat(height, width, color):
    return np.full((height, width, 3), color, np.uint8)


pictures = st.one_of(
    st.builds(tiled, sides, sides, st.integers(1, 9), st.integers(1, 9), seeds, st.booleans()),
    st.builds(noise, sides, sides, seeds, st.booleans()),
    st.builds(flat, sides, sides, st.tuples(*[st.integers(0, 255)] * 3)),
)
shares = st.sampled_from([0, 0.3, 0.7, 1])
"""Shares of the range of qualities, which ends past the last level."""

few = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@cache
def codec_of(name):
    if name == "agvae-small-mse":
        return Codec.load(name)
    transforms, context = name.split()
    config = copy.deepcopy(TINY) | {"context": {"name": context}}
    config["transforms"] |= {"name": transforms} | ({"blocks": 1} if transforms == "depthwise" else {})
    return Codec(model_file.from_model(lively_model(config)))


@pytest.mark.parametrize("name", ["agvae-small-mse", "minnen2018 none", "depthwise checkerboard"])
@few
@given(pixels=pictures, share=shares)
@example(pixels=tiled(64, 64, 1, 2, 0, True), share=1)
@example(pixels=np.indices((64, 64)).sum(0)[..., None].repeat(3, 2).astype(np.uint8) % 2 * 255, share=0.3)
def test_any_picture_is_coded_in_no_more_than_lossless_and_no_worse_than_flat(name, pixels, share):
    codec = codec_of(name)
    data = codec.compress(pixels, quality=share * codec.last_quality)
    decoded = codec.decompress(data)
    assert decoded.size == pixels.shape[1::-1]
    assert len(data) <= len(codec.compress(pixels, lossless=True))
    mean = np.broadcast_to(pixels.mean((0, 1)).round().astype(np.uint8), pixels.shape)
    assert psnr(pixels, np.asarray(decoded)) >= psnr(pixels, mean) - 0.01


@pytest.mark.parametrize("name", ["agvae-small-mse", "depthwise checkerboard"])
@settings(few, max_examples=8)
@given(pixels=pictures, share=shares)
def test_a_learned_body_holds_any_picture(name, pixels, share):
    codec = codec_of(name)
    data = codec.compress(pixels, quality=share * codec.last_quality, lossless=False)
    assert unpack(data).header.kind is Kind.LEARNED
    assert codec.decompress(data).size == pixels.shape[1::-1]


@pytest.mark.parametrize("name", ["agvae-small-mse", "minnen2018 none", "residual none", "depthwise checkerboard"])
@torch.inference_mode()
def test_a_hostile_stream_that_drives_g_s_to_extremes_gives_the_same_picture_each_time(name, monkeypatch):
    """ŷ is ±2^23. If g_s gives NaN for it, the format defines the value of the pixel."""
    codec = codec_of(name)
    header = unpack(codec.compress(np.zeros((70, 100, 3), np.uint8), quality=0, lossless=False)).header
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (1, codec.model.M, 8, 8), generator=generator) * 2 - 1
    coding = codec.latent_codec.encode(signs * 2.0**23, 0.0, checksum=header.checksum)
    data = pack(header, coding.encoder.finish())
    made = []
    synthesize = codec.model.synthesize
    monkeypatch.setattr(codec.model, "synthesize", lambda *a: made.append(synthesize(*a)) or made[-1])
    decoded = np.array(codec.decompress(data))
    assert decoded.shape == (70, 100, 3)
    values = torch.cat(made)[0, :, :70, :100].permute(1, 2, 0).numpy()
    assert (decoded[np.isnan(values) | (values <= 0)] == 0).all()
    assert (decoded[values >= 1] == 255).all()
