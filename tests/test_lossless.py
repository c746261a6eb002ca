"""Lossless bodies: every pixel survives, all damage is detected, and every target of a metric or a rate is met."""

import io
from dataclasses import replace

import numpy as np
import pytest
from conftest import TINY, lively_model
from PIL import Image

from agvae.codec import BitstreamError, Codec, TargetError, bitstream, model_file
from agvae.codec.bitstream import Kind, pack, unpack
from agvae.codec.look import Look
from agvae.codec.lossless import WEBP_SIDE, compress_lossless, decompress_lossless
from agvae.images import Picture, picture_of, read_picture

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def codec():
    return Codec(model_file.from_model(lively_model(TINY)))


@pytest.fixture
def crop(photo):
    return photo.crop((200, 60, 237, 89))


@pytest.fixture(scope="module")
def page():
    """Black bars on white that resemble text, 96×80."""
    pixels = np.full((80, 96, 3), 255, np.uint8)
    pixels[8:72:8, 8:80:3] = 0
    return pixels


def returned(picture: Picture) -> Image.Image:
    return decompress_lossless(unpack(compress_lossless(picture)))


# ---- every pixel -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK"])
def test_pixels_alpha_and_greyness_come_back(crop, mode):
    image = crop.convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.fromarray(RANDOM.integers(0, 256, (29, 37), dtype=np.uint8)))
    picture = picture_of(image)
    back = returned(picture)
    assert back.mode == {"P": "RGB", "CMYK": "RGB"}.get(mode, mode)
    assert np.array_equal(picture_of(back).pixels, picture.pixels)
    assert mode[-1] != "A" or back.getchannel("A").tobytes() == image.getchannel("A").tobytes()
    header = unpack(compress_lossless(picture)).header
    assert (header.kind, header.version, header.fingerprint) == (Kind.WEBP, 2, b"")


def test_pixels_under_alpha_0_come_back(crop):
    image = crop.copy()
    image.putalpha(0)
    assert np.array_equal(np.array(returned(picture_of(image)))[..., :3], np.array(crop))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (64, 65)])
def test_1_bit_pictures_come_back_as_such_and_small(size, tmp_path):
    image = Image.fromarray(np.add.outer(np.arange(size[0]) // 3, np.arange(size[1]) // 3) % 2 == 0)
    image.save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    back = returned(picture)
    assert (back.mode, back.tobytes()) == ("1", image.tobytes())
    assert len(compress_lossless(picture)) <= (tmp_path / "a.png").stat().st_size + bitstream.HEADER_MAX


def test_16_bit_grey_comes_back(tmp_path):
    values = RANDOM.integers(0, 65536, (20, 31), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", keep_depth=True)
    back = returned(picture)
    assert back.mode == "I;16"
    assert np.array_equal(np.array(back), values)
    assert back.size == (31, 20)


@pytest.mark.parametrize("grey", [False, True])
def test_a_side_longer_than_webp_has_is_kept_as_png(grey):
    pixels = RANDOM.integers(0, 256, (2, WEBP_SIDE + 1, 3), dtype=np.uint8)
    if grey:
        pixels = pixels[..., :1].repeat(3, 2)
    for picture, kind in (
        (Picture(pixels, grey), Kind.PNG),
        (Picture(pixels.transpose(1, 0, 2), grey), Kind.PNG),
        (Picture(pixels[:, :WEBP_SIDE], grey), Kind.WEBP),
    ):
        assert unpack(compress_lossless(picture)).header.kind is kind
        back = returned(picture)
        assert back.mode == ("L" if grey else "RGB")
        assert np.array_equal(np.array(back.convert("RGB")), picture.pixels)


def test_metadata_comes_back(crop):
    kept = {"exif": b"II*\0\x08\0\0\0\0\0\0\0\0\0", "xmp": b"<x/>", "text": {"Title": "日本"}}
    back = picture_of(returned(replace(picture_of(crop), **kept)))
    assert {name: getattr(back, name) for name in kept} == kept


# ---- no damage goes unnoticed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "1", "LA"])
def test_every_byte_that_changes_is_an_error(codec, crop, mode):
    image = crop.crop((0, 0, 9, 7)).convert(mode)
    picture = picture_of(image)
    data = codec.compress(picture, lossless=True)
    for place in range(len(data)):
        for change in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            damaged = bytearray(data)
            damaged[place] ^= change
            with pytest.raises(BitstreamError):
                codec.decompress(bytes(damaged))


def test_every_cut_and_every_addition_is_an_error(codec, crop):
    data = codec.compress(crop, lossless=True)
    for cut in range(len(data)):
        with pytest.raises(BitstreamError):
            codec.decompress(data[:cut])
    with pytest.raises(BitstreamError, match="announces a body"):
        codec.decompress(data + b"\0")


def file_of(image: Image.Image, name: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


BODIES = {
    "a lossy WebP": (Kind.WEBP, lambda image: file_of(image, "WEBP")),
    "an animation": (
        Kind.WEBP,
        lambda image: file_of(image, "WEBP", save_all=True, append_images=[image.rotate(90)], lossless=True),
    ),
    "WebP with alpha": (Kind.WEBP, lambda image: file_of(image.convert("RGBA").rotate(45), "WEBP", lossless=True)),
    "another size": (Kind.WEBP, lambda image: file_of(image.resize((38, 29)), "WEBP", lossless=True)),
    "a huge one": (Kind.PNG, lambda image: file_of(Image.new("1", (20000, 20000)), "PNG")),
    "PNG as WebP": (Kind.WEBP, lambda image: file_of(image, "PNG")),
    "WebP as PNG": (Kind.PNG, lambda image: file_of(image, "WEBP", lossless=True)),
    "another size of PNG": (Kind.PNG, lambda image: file_of(image.resize((37, 30)), "PNG")),
    "a palette": (Kind.PNG, lambda image: file_of(image.convert("P"), "PNG")),
    "PNG with alpha": (Kind.PNG, lambda image: file_of(image.convert("RGBA"), "PNG")),
    "half a PNG": (Kind.PNG, lambda image: file_of(image, "PNG")[:-300]),
    "half a WebP": (Kind.WEBP, lambda image: file_of(image, "WEBP", lossless=True)[:-300]),
    "a header of WebP": (Kind.WEBP, lambda image: file_of(image, "WEBP", lossless=True)[:24]),
    "a JPEG": (Kind.PNG, lambda image: file_of(image, "JPEG")),
    "nothing": (Kind.WEBP, lambda image: b""),
    "noise": (Kind.PNG, lambda image: RANDOM.bytes(100)),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_no_encoder_makes_is_refused_though_its_checksum_is_right(codec, crop, name):
    kind, body = BODIES[name]
    header = unpack(codec.compress(crop, lossless=True)).header
    with pytest.raises(BitstreamError, match="the body") as caught:
        codec.decompress(pack(header._replace(kind=kind), body(crop)))
    assert "\n" not in str(caught.value)


def test_a_picture_over_the_limit_is_refused(codec, crop):
    data = codec.compress(crop.resize((100, 80)), lossless=True)
    assert codec.decompress(data, max_pixels=8000).size == (100, 80)
    with pytest.raises(BitstreamError, match="100×80 exceeds the limit of 7999 pixels"):
        codec.decompress(data, max_pixels=7999)


def test_any_model_reads_a_lossless_file(tiny_config, crop):
    files, pictures = set(), set()
    for seed in range(2):
        codec = Codec(model_file.from_model(lively_model(tiny_config, seed)))
        files.add(codec.compress(crop, lossless=True))
        pictures.update(codec.decompress(data).tobytes() for data in files)
    assert len(files) == len(pictures) == 1


# ---- targets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [{"psnr": 60}, {"ms_ssim": 1}])
def test_a_metric_past_the_models_range_is_met_by_a_lossless_file(codec, photo, target):
    image = photo.crop((0, 0, 170, 165))
    data = codec.compress(image, **target)
    assert unpack(data).header.kind is Kind.WEBP
    assert np.array_equal(np.array(codec.decompress(data)), np.array(image))
    with pytest.raises(TargetError, match="out of range: this picture can have"):
        codec.compress(image, **target, lossless=False)


@pytest.mark.parametrize("target", [{"bpp": 3}, {"bytes": 3000}])
def test_a_rate_is_met_by_a_lossless_file_that_fits(codec, page, target):
    data = codec.compress(page, **target)
    assert unpack(data).header.kind is not Kind.LEARNED
    assert len(data) <= min(3000, 3 * page.shape[0] * page.shape[1] / 8)
    assert np.array_equal(np.array(codec.decompress(data)), page)


def test_a_quality_is_met_by_a_lossless_file_that_is_smaller(codec, page):
    lossless = codec.compress(page, lossless=True)
    assert codec.compress(page, quality=1) == lossless
    assert len(lossless) < len(codec.compress(page, quality=1, lossless=False))


def test_a_target_beside_lossless_is_refused(codec, page):
    with pytest.raises(ValueError, match="lossless and bpp cannot be combined"):
        codec.compress(page, lossless=True, bpp=1)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 3)])
def test_thin_and_tiny_pictures_cost_no_more_than_lossless_ones(codec, photo, size):
    image = photo.resize(size)
    data = codec.compress(image, quality=codec.last_quality)
    assert len(data) <= len(codec.compress(image, lossless=True))
    assert len(data) < 100 + 3 * size[0] * size[1]
    assert codec.decompress(data).size == size


# ---- whether it is tried ---------------------------------------------------------------------------------------


def test_a_look_tells_photographs_from_drawings_without_making_a_file(photo):
    pixels = np.asarray(photo)
    page = np.full((512, 512, 3), 255, np.uint8)
    page[8::16, 8:400:3] = 0
    rate = 0.5 * 512**2 / 8
    assert not Look.at(pixels).may_be_within(rate)
    assert not Look.at(pixels).doubts(int(rate))
    assert Look.at(page).may_be_within(rate)
    noise = RANDOM.integers(0, 256, pixels.shape, dtype=np.uint8)
    assert Look.at(noise).doubts(int(rate))


@pytest.mark.parametrize("size", [(1, 1), (1, 40000), (40000, 1), (2, 3), (1000, 17)])
def test_a_picture_of_any_shape_is_looked_at(size):
    look = Look.at(np.zeros((*size, 3), np.uint8))
    assert look.may_be_within(100)
    assert look.correlation == 1


def test_a_1_bit_picture_stays_one_at_any_quality(codec, photo):
    scan = photo.crop((0, 0, 190, 130)).convert("1")
    data = codec.compress(scan, quality=0)
    assert codec.decompress(data).mode == "1"
    assert codec.decompress(data).tobytes() == scan.tobytes()
