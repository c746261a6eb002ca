"""Latents become streams and latents again, without pictures and headers. The right model is found for a file."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY, lively_model, recording

from agvae import shipped
from agvae.codec import BitstreamError, Codec, codec_for, model_file
from agvae.codec.bitstream import pack, unpack
from agvae.entropy.coder import CodingError
from agvae.models.context import CONTEXTS


@pytest.fixture(params=sorted(CONTEXTS))
def codec(tiny_config, request):
    tiny_config["context"]["name"] = request.param
    return Codec(model_file.from_model(lively_model(tiny_config)))


@pytest.fixture
def image(photo):
    return photo.crop((0, 0, 130, 70))


@torch.inference_mode()
def test_a_latent_comes_back_and_costs_what_the_model_says(codec, image):
    latents, y = codec.latent_codec, codec.analyze(image).y
    y_bar = codec.model.scale(y, 1.25)
    coding = latents.encode(y_bar.clone(), 1.25)
    stream = coding.encoder.finish()
    height, width = coding.z_symbols.shape[2:]
    assert torch.equal(latents.decode(stream, 1.25, height, width), coding.y_hat)
    bits = latents.bits(y_bar, 1.25).item()
    assert latents.least_bits(height, width) <= bits <= 8 * len(stream)
    coded = codec.model.code(y, 1.25)
    assert torch.equal(coded.y_hat, coding.y_hat)
    assert torch.equal(coded.z_symbols, coding.z_symbols)
    assert (coded.y_bits.sum() + coded.z_bits.sum()).item() == pytest.approx(bits, rel=1e-5)
    with pytest.raises(CodingError):
        latents.decode(stream, 1.25, height, width, checksum=1)


@torch.inference_mode()
def test_an_encoder_may_choose_another_latent_and_other_symbols_of_z(codec, image):
    """The coder accepts the results of a search, and the decoder does not depend on them."""
    header = unpack(codec.compress(image, quality=1.25, lossless=False)).header
    y_bar = 0.7 * codec.model.scale(codec.analyze(image).y, 1.25)
    generator = torch.Generator().manual_seed(0)
    z_symbols = torch.randint(-3, 4, (1, codec.model.N, 2, 3), generator=generator).float()
    coding = codec.latent_codec.encode(y_bar.clone(), 1.25, z_symbols, header.checksum)
    assert (coding.y_hat - y_bar).abs().max() <= 0.501
    stream = coding.encoder.finish()
    assert torch.equal(codec.latent_codec.decode(stream, 1.25, 2, 3, header.checksum), coding.y_hat)
    decoded, z, _ = recording(codec, pack(header, stream))
    assert np.array_equal(z, z_symbols.numpy().ravel())
    assert decoded.size == image.size
    assert codec.latent_codec.bits(y_bar, 1.25, z_symbols).item() <= 8 * len(stream)


def test_a_latent_can_be_compressed_again_whatever_the_gain(photo):
    """ŷ may overwrite ȳ, but never the latent."""
    for gain in ({"name": "none", "levels": 1}, {"name": "cvr", "levels": 3}):
        codec = Codec(model_file.from_model(lively_model(TINY | {"gain": gain})))
        latent = codec.analyze(photo.crop((0, 0, 80, 70)))
        before = latent.y.clone()
        assert len({codec.compress(latent, quality=0, lossless=False) for _ in range(2)}) == 1
        assert torch.equal(latent.y, before)


def test_a_file_whose_header_has_been_read_is_decompressed(codec, image):
    for lossless in (False, True):
        data = codec.compress(image, lossless=lossless)
        assert codec.decompress(unpack(data)).tobytes() == codec.decompress(data).tobytes()


# ------------------------------------------------ the model that a file needs


@pytest.fixture
def shipped_models(tmp_path, monkeypatch):
    """Puts three models in place of the shipped ones. Returns the names of those that are read, as a list."""
    cards = {}
    for seed, name in enumerate("abc"):
        model = model_file.from_model(lively_model(TINY, seed=seed))
        model.save(tmp_path / f"{name}.safetensors")
        cards[name] = shipped.Card(name, "", "psnr-rgb", model.fingerprint.hex(), 3, 0, {})
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    monkeypatch.setattr(shipped, "cards", lambda: tuple(cards.values()))
    loaded, load = [], model_file.load
    monkeypatch.setattr(model_file, "load", lambda name: loaded.append(name) or load(name))
    return loaded


def test_the_model_that_made_a_file_is_read_once_and_no_other_is(shipped_models):
    wanted = bytes.fromhex(shipped.cards()[1].fingerprint)
    codec = codec_for(wanted)
    assert (codec.name, codec.fingerprint, shipped_models) == ("b", wanted, ["b"])
    with pytest.raises(BitstreamError, match="is not included in agvae"):
        codec_for(b"none")


def test_a_card_that_states_a_false_fingerprint_is_not_believed(shipped_models, tmp_path):
    a, b = (bytes.fromhex(card.fingerprint) for card in shipped.cards()[:2])
    shutil.copy(tmp_path / "b.safetensors", tmp_path / "a.safetensors")
    with pytest.raises(BitstreamError, match="is not included in agvae"):
        codec_for(a)
    assert codec_for(b).name == "b"


def test_the_cards_are_those_of_the_models():
    assert set(json.loads(shipped.CARDS.read_text())) == set(shipped.names())
    for card in shipped.cards():
        model = model_file.load(card.name)
        assert card.fingerprint == model.fingerprint.hex()
        assert card.parameters == sum(weight.numel() for weight in model.weights.values())
