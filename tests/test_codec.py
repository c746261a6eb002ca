"""Properties of the codec: its files decode to the model's own picture, at every quality and size."""

import io

import numpy as np
import pytest
import torch
from conftest import lively_model
from PIL import Image

from agvae.codec import BitstreamError, Codec, ModelError, bitstream, model_file
from agvae.models.context import CONTEXTS
from agvae.models.exact import exact

CONTEXT_NAMES = sorted(CONTEXTS)
GAINS = [("none", 1), ("cvr", 3), ("hcvr", 3)]
SIZES = [(1, 1), (65, 257), (17, 400)]


def make_codec(config, context="none", gain=("hcvr", 3), entropy="half_mass", tail=0.0):
    config["context"]["name"] = context
    config["gain"] = dict(zip(("name", "levels"), gain, strict=True))
    config["entropy"] = {"name": "symmetric"} if entropy == "symmetric" else {"name": "asymmetric", "form": entropy}
    config["entropy"]["tail"] = tail
    model = lively_model(config)
    return Codec(model_file.from_model(model)), model


@pytest.fixture
def codec(tiny_model):
    return Codec(model_file.from_model(tiny_model))


def own_picture(model, image, quality):
    """The output of the model in evaluation mode, padded and cropped as in the codec, and its bits."""
    x = np.array(image)
    pad = [(0, -x.shape[0] % 64), (0, -x.shape[1] % 64), (0, 0)]
    padded = torch.from_numpy(np.pad(x, pad, mode="edge")).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        out = exact(model)(padded, quality)
    x_hat = out.x_hat.clamp(0, 1).mul(255).round()[0].permute(1, 2, 0).numpy()
    return x_hat[: x.shape[0], : x.shape[1]], out.bits.item()


@pytest.mark.parametrize("context", CONTEXT_NAMES)
@pytest.mark.parametrize("gain", GAINS, ids=lambda g: g[0])
@pytest.mark.parametrize("entropy", ["symmetric", "half_mass", "two_piece"])
def test_decoding_gives_the_models_own_picture_at_its_own_rate(tiny_config, photo, context, gain, entropy):
    assert_own_picture_at_own_rate(*make_codec(tiny_config, context, gain, entropy), photo)


@pytest.mark.parametrize("entropy", ["symmetric", "half_mass", "two_piece"])
def test_a_tail_is_coded_at_its_own_rate(tiny_config, photo, entropy):
    codec, model = make_codec(tiny_config, "checkerboard", entropy=entropy, tail=0.1)
    assert_own_picture_at_own_rate(codec, model, photo)
    crop = photo.crop((0, 0, 64, 64))
    without = make_codec(tiny_config, "checkerboard", entropy=entropy)[0]
    assert codec.estimate(crop, quality=1) != without.estimate(crop, quality=1)


def assert_own_picture_at_own_rate(codec, model, photo):
    last = model.levels - 1
    for size, quality in zip(SIZES, (0, last / 3, last), strict=True):
        quality = round(quality * 1024) / 1024
        image = photo.crop((100, 100, 100 + size[0], 100 + size[1]))
        data = codec.compress(image, quality=quality, lossless=False)
        expected, bits = own_picture(model, image, quality)
        decoded = np.array(codec.decompress(data)).astype(float)
        # Sums in another order are rounded differently, so a value near a threshold may differ by one.
        assert np.abs(decoded - expected).max() <= 1
        assert (decoded != expected).mean() < 1e-3
        assert codec.estimate(image, quality=quality) == pytest.approx(bits, rel=1e-3)
        assert 8 * len(data) >= bits
        assert len(data) <= 1.01 * bits / 8 + bitstream.HEADER_MAX


def test_every_quality_is_coded_as_the_stream_says(codec, photo):
    """A quality between two fixed-point steps gives the bytes and the picture of the nearest step."""
    image = photo.crop((0, 0, 130, 70))
    for quality in (0.3, 1.23456789, 1.99999):
        data = codec.compress(image, quality=quality, lossless=False)
        stored = bitstream.unpack(data)[0].quality / 1024
        assert abs(stored - quality) <= 0.5 / 1024
        assert data == codec.compress(image, quality=stored, lossless=False)
        assert codec.decompress(data).size == image.size


def test_rate_and_estimate_grow_with_quality(codec, photo):
    latent = codec.analyze(photo)
    sizes = [len(codec.compress(latent, quality=q, lossless=False)) for q in (0, 0.5, 1, 1.5, 2, 2.3, 3, 4)]
    assert sizes == sorted(set(sizes))
    bits = [codec.estimate(latent, quality=q) for q in (0, 2, 4)]
    assert bits == sorted(bits)


def test_pictures_paths_arrays_tensors_and_latents_give_the_same_bytes(codec, photo, tmp_path):
    image, path = photo.crop((0, 0, 100, 90)), tmp_path / "photo.png"
    image.save(path)
    array = np.array(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    forms = (image, path, str(path), array, tensor, codec.analyze(image))
    assert len({codec.compress(form, quality=1, lossless=False) for form in forms}) == 1
    assert len({codec.compress(form, lossless=True) for form in forms}) == 1
    grey = image.convert("L")
    values = np.array(grey)
    forms = (grey, values, torch.from_numpy(values)[None].float() / 255)
    assert len({codec.compress(form, quality=1, lossless=False) for form in forms}) == 1


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_a_preview_is_the_file_and_its_picture(codec, photo, mode):
    latent = codec.analyze(photo.crop((0, 0, 130, 70)).convert(mode))
    for quality in (0, 1.3, 3.5):
        file, decoded = codec.preview(latent, quality=quality)
        assert file == codec.compress(latent, quality=quality, lossless=False)
        picture, expected = decoded(), codec.decompress(file)
        assert picture.mode == expected.mode == mode
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


def test_the_default_target_is_the_middle_quality(codec, photo):
    image = photo.crop((0, 0, 100, 90))
    assert codec.compress(image, lossless=False) == codec.compress(image, quality=1, lossless=False)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 1, 1), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        torch.zeros(4, 4, 3),
        torch.full((3, 4, 4), 1.5),
        torch.zeros(3, 4, 4, dtype=torch.int32),
        "nowhere.png",
    ],
    ids=str,
)
def test_what_is_no_picture_is_refused(codec, image):
    with pytest.raises(ValueError, match=r"array|tensor|image|file"):
        codec.compress(image, quality=0)


@pytest.mark.parametrize("quality", [-0.1, 4.1, float("nan")])
def test_quality_out_of_range_is_refused(codec, photo, quality):
    with pytest.raises(ValueError, match="from 0 to 4"):
        codec.compress(photo, quality=quality)


def test_header_is_small_even_for_the_largest_picture():
    header = bitstream.Header(b"abcd", 2**20, 2**20, 64 * 1024)
    data = bitstream.pack(header, b"x" * 2**22)
    assert len(data) - 2**22 <= bitstream.HEADER_MAX
    assert bitstream.unpack(data) == (header, b"x" * 2**22)


def test_damaged_data_is_an_error_and_never_a_picture(codec, photo):
    data = codec.compress(photo.crop((0, 0, 64, 64)), quality=1, lossless=False)
    for cut in range(len(data)):
        with pytest.raises(BitstreamError):
            codec.decompress(data[:cut])
    with pytest.raises(BitstreamError):
        codec.decompress(data + b"\0")
    generator = np.random.default_rng(0)
    for position in [*range(12), *generator.integers(12, len(data), 60)]:
        damaged = bytearray(data)
        damaged[position] ^= 1 << generator.integers(8)
        with pytest.raises(BitstreamError):
            codec.decompress(bytes(damaged), max_pixels=2**16)


def test_another_models_file_is_refused(tiny_config, photo):
    ours = Codec(model_file.from_model(lively_model(tiny_config, seed=0)))
    theirs = Codec(model_file.from_model(lively_model(tiny_config, seed=1)))
    with pytest.raises(BitstreamError, match="made by the model"):
        ours.decompress(theirs.compress(photo.crop((0, 0, 64, 64)), quality=1, lossless=False))


def test_too_many_pixels_are_refused_before_anything_is_decoded(codec):
    data = bitstream.pack(bitstream.Header(codec.fingerprint, 2**31, 2**31, 0), b"\0" * 10)
    with pytest.raises(BitstreamError, match="pixels"):
        codec.decompress(data)


@pytest.mark.parametrize("half", [False, True])
def test_a_saved_model_codes_the_same_bytes(tiny_model, photo, tmp_path, half):
    path = tmp_path / "model.safetensors"
    model = model_file.from_model(tiny_model, half=half)
    model.save(path)
    saved, kept = Codec.load(path), Codec(model)
    assert saved.fingerprint == kept.fingerprint
    assert saved.name == "model"
    image = photo.crop((0, 0, 150, 100))
    data = kept.compress(image, quality=1.5, lossless=False)
    assert saved.compress(image, quality=1.5, lossless=False) == data
    assert saved.decompress(data).tobytes() == kept.decompress(data).tobytes()


def test_tables_stay_small(codec):
    assert codec.latent_codec.tables.nbytes < 8e6


def rewrite(source, target, change):
    """Copy a model file with its tensors and metadata passed through `change`."""
    import json

    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(source, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = json.loads(file.metadata()["agvae"])
    change(tensors, metadata)
    save_file(tensors, target, {"agvae": json.dumps(metadata)})


@pytest.mark.parametrize(
    "change",
    [
        lambda t, m: m["model"]["transforms"].update(N=10**9),
        lambda t, m: m["model"]["transforms"].update(N=16),
        lambda t, m: m["model"]["transforms"].update(name="os.system"),
        lambda t, m: m["model"].update(extra={}),
        lambda t, m: m.update(format=2),
        lambda t, m: m.update(model=[]),
        lambda t, m: t.pop("model.prior.quantiles"),
        lambda t, m: t.update({"model.extra": torch.zeros(1)}),
        lambda t, m: t["model.prior.quantiles"].view(-1)[:1].fill_(torch.nan),
        lambda t, m: t.pop("tables.sign"),
        lambda t, m: t.update({"tables.sign": t["tables.sign"] * 0}),
        lambda t, m: t.update({"tables.z_offset": t["tables.z_offset"][1:].clone()}),
    ],
)
def test_unsound_model_files_are_refused(tiny_model, tmp_path, change):
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    model_file.from_model(tiny_model).save(good)
    rewrite(good, bad, change)
    with pytest.raises(ModelError, match=r"bad\.safetensors"):
        model_file.load(bad)


def test_files_that_are_no_models_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    for content in (b"", b"hello", b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="not a model file"):
            model_file.load(path)
        with pytest.raises(ModelError, match="not a training checkpoint"):
            model_file.from_checkpoint(path)
    checkpoint = tmp_path / "x.ckpt"
    for config in ("resnet50", {"name": "resnet50"}, {}):
        torch.save({"hyper_parameters": {"model": config}, "state_dict": {}, "global_step": 1}, checkpoint)
        with pytest.raises(ModelError, match="not a training checkpoint"):
            model_file.from_checkpoint(checkpoint)
    with pytest.raises(ModelError, match="agvae export"):
        model_file.load(checkpoint)
    for read in (model_file.load, model_file.from_checkpoint):
        with pytest.raises(ModelError, match=r"nowhere"):
            read(tmp_path / "nowhere.safetensors")


def test_pictures_of_every_mode_are_taken(codec):
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"):
        image = Image.new(mode, (70, 20))
        for lossless in (None, False):
            assert codec.decompress(codec.compress(image, quality=1, lossless=lossless)).size == (70, 20)


def test_upright_by_exif(codec, photo):
    image, file = photo.crop((0, 0, 80, 40)), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(file, "PNG", exif=exif)
    for lossless in (None, False):
        data = codec.compress(Image.open(file), quality=1, lossless=lossless)
        assert codec.decompress(data).size == (40, 80)
