"""Pixel conversion: pictures of every mode become RGB, the content of an .agv file, and files again."""

import io
import struct
import sys

import numpy as np
import pytest
import torch
from picture_files import exif_with, png_of, saved
from PIL import Image, ImageCms

from agvae.images import (
    ImageError,
    Picture,
    as_picture,
    encode_image,
    format_of,
    image_size,
    is_picture,
    load_rgb,
    picture_of,
    read_picture,
    to_rgb,
)

MODES = ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "LAB", "PA", "RGBa", "La", "RGBX"]
GREY_MODES = ["1", "L", "LA", "La", "I", "I;16", "F"]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]
CMYK_PROFILE = SRGB[:16] + b"CMYK" + SRGB[20:]


def in_mode(photo: Image.Image, mode: str) -> Image.Image:
    """A small photo in the given mode. Its alpha, if it has one, runs from 0 to 255."""
    small = photo.resize((40, 30))
    if mode in ("I", "I;16"):
        return Image.fromarray(np.asarray(small.convert("L")).astype(np.int32 if mode == "I" else np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(np.asarray(small.convert("L")).astype(np.float32) / 255)
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        lab = ImageCms.profileToProfile(small, *profiles, outputMode="LAB")
        lab.info.clear()
        return lab
    for step in {"PA": ("P", "PA"), "RGBa": ("RGBA",), "La": ("LA",)}.get(mode, (mode,)):
        small = small.convert(step)
    if small.mode in ("RGBA", "LA", "PA"):
        small.putalpha(ramp(small.size))
    return small.convert(mode) if small.mode != mode else small


def ramp(size: tuple[int, int]) -> Image.Image:
    width, height = size
    return Image.fromarray((np.arange(width * height) % 256).reshape(height, width).astype(np.uint8))


# ---- to RGB -----------------------------------------------------------------------------------------------------


def test_every_file_format_decodes_to_8_bit_rgb(tmp_path, photo):
    for suffix in ("png", "jpg", "webp", "tiff", "avif", "bmp", "ppm"):
        path = tmp_path / f"photo.{suffix}"
        photo.save(path)
        pixels = load_rgb(path)
        assert pixels.dtype == np.uint8
        assert pixels.shape == (*photo.size[::-1], 3)
        assert np.abs(pixels.astype(int) - np.asarray(photo)).mean() < 5, suffix


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb_of_the_same_size(mode, photo):
    small = in_mode(photo, mode)
    assert small.mode == mode
    rgb = to_rgb(small)
    assert (rgb.mode, rgb.size) == ("RGB", (40, 30))
    assert rgb is not small


def test_exif_orientation_is_applied(tmp_path, photo):
    upright = photo.crop((0, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 270°
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(load_rgb(tmp_path / "turned.png"), np.asarray(upright))


def test_transparency_is_shown_on_white_and_opaque_alpha_changes_nothing(photo):
    opaque = photo.copy()
    opaque.putalpha(255)
    assert np.array_equal(to_rgb(opaque), photo)
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    assert to_rgb(half).getpixel((0, 0)) == (127, 127, 127)
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([255, 0, 0])
    assert to_rgb(palette).getpixel((0, 0)) == (255, 0, 0)
    palette.info["transparency"] = 0
    assert to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    assert np.array_equal(load_rgb(tmp_path / f"deep.{suffix}")[..., 1], values // 257)


def test_16_bit_colour_is_scaled_not_clipped(tmp_path):
    values = np.arange(0, 256, dtype=">u2").repeat(3).reshape(16, 16, 3) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    (tmp_path / "deep.png").write_bytes(png_of(rows, 16, 16, 16, 2))
    assert np.array_equal(load_rgb(tmp_path / "deep.png"), values // 257)
    assert "its 16-bit values are kept as 8 bits" in read_picture(tmp_path / "deep.png").lost


def test_16_bit_pgm_is_scaled(tmp_path):
    (tmp_path / "deep.pgm").write_bytes(b"P5 2 1 65535\n" + struct.pack(">HH", 65535, 257 * 9))
    assert load_rgb(tmp_path / "deep.pgm")[0, :, 0].tolist() == [255, 9]


def test_float_images_are_taken_in_unit_range_only(tmp_path):
    Image.fromarray(np.array([[0, 0.5, 1]], dtype=np.float32)).save(tmp_path / "good.tiff")
    assert load_rgb(tmp_path / "good.tiff")[0, :, 0].tolist() == [0, 128, 255]
    for bad in (300.0, -1.0, np.nan):
        Image.fromarray(np.array([[0, bad]], dtype=np.float32)).save(tmp_path / "bad.tiff")
        with pytest.raises(ImageError, match=r"bad\.tiff: float pixel values .* \[0, 1\]"):
            load_rgb(tmp_path / "bad.tiff")


def test_unreadable_files_are_named_with_the_reason(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ImageError, match=r"text\.png: not an image"):
        load_rgb(tmp_path / "text.png")
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        image_size(tmp_path / "gone.png")
    noise = Image.effect_noise((128, 96), 50)
    (tmp_path / "cut.png").write_bytes(saved(noise, "PNG").read()[:2000])  # the header is complete
    assert image_size(tmp_path / "cut.png") == (96, 128)
    with pytest.raises(ImageError, match=r"cut\.png: .*truncated"):
        load_rgb(tmp_path / "cut.png")


# ---- what an .agv file can hold ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [*MODES, "I", "I;16", "F"])
def test_a_picture_has_the_pixels_of_its_mode_and_says_what_it_lost(mode, photo):
    image = in_mode(photo, mode)
    picture = picture_of(image)
    assert picture.grey == (mode in GREY_MODES)
    assert (picture.alpha is not None) == (mode in ("RGBA", "LA", "PA", "RGBa", "La"))
    back = picture.to_pil()
    plain = ("L" if picture.grey else "RGB") + ("A" if picture.alpha is not None else "")
    assert back.mode == ("1" if mode == "1" else plain)
    assert picture.bilevel == (mode == "1")
    straight = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}.get(mode)
    reference = image.convert(straight) if straight else back.convert(back.mode) if mode[0] in "IF" else None
    if reference is None:
        reference = image.convert(back.mode)
    assert np.array_equal(back, reference)
    assert np.array_equal(picture.pixels[..., :1].repeat(3, axis=2), picture.pixels) or not picture.grey
    lost = {"I": "16-bit values", "I;16": "16-bit values", "F": "float values"} | {
        name: f"{name} colours" for name in ("CMYK", "YCbCr", "HSV", "LAB")
    }
    assert [lost[mode] in phrase for phrase in picture.lost] == [True] if mode in lost else picture.lost == ()


def test_16_bit_grey_is_scaled_to_grey_of_8_bits(photo):
    eight = np.asarray(photo.convert("L"))
    sixteen = picture_of(Image.fromarray(eight.astype(np.uint16) * 257))
    assert sixteen.grey
    assert np.array_equal(sixteen.pixels[..., 0], eight)


def test_pixels_under_alpha_0_are_kept(photo):
    image = photo.copy()
    image.putalpha(0)
    assert np.array_equal(picture_of(image).pixels, photo)


@pytest.mark.parametrize("transparency", [2, bytes([255, 128, 0])])
def test_transparency_of_a_palette_becomes_alpha(transparency):
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture = read_picture(saved(image, "PNG", transparency=transparency))
    assert picture.alpha.tolist() == [[255, 255, 0] if transparency == 2 else [255, 128, 0]]
    assert picture.pixels[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert not picture.grey


@pytest.mark.parametrize(
    ("depth", "colour", "row", "key", "pixels"),
    [
        (2, 0, b"\x1b", 1, [0, 85, 170, 255]),  # 0, 1, 2, 3
        (4, 0, b"\x01\x23", 1, [0, 17, 34, 51]),
        (8, 0, bytes([5, 6, 7, 8]), 6, [5, 6, 7, 8]),
        (16, 0, struct.pack(">4H", 0, 257, 258, 514), 257, [0, 1, 1, 2]),
        (8, 2, bytes([0, 0, 0, 9, 9, 9, 9, 9, 0, 255, 0, 0]), (9, 9, 9), None),
        (16, 2, struct.pack(">12H", 0, 0, 0, 999, 999, 999, 999, 999, 0, 65535, 0, 0), (999, 999, 999), None),
    ],
)
def test_a_transparent_colour_becomes_alpha_at_every_depth(depth, colour, row, key, pixels):
    key = (key,) if isinstance(key, int) else key
    file = png_of(b"\0" + row, 4, 1, depth, colour, (b"tRNS", struct.pack(f">{len(key)}H", *key)))
    picture = read_picture(io.BytesIO(file))
    assert picture.alpha.tolist() == [[255, 0, 255, 255]]
    if pixels is not None:
        assert picture.grey
        assert picture.pixels[0, :, 0].tolist() == pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "LA"])
def test_a_picture_stands_upright_with_its_alpha_and_its_exif_says_so(photo, orientation, mode):
    image = in_mode(photo, mode)
    exif = exif_with(orientation=orientation, make="maker", copyright="ours", exposure=0.5)
    image = Image.open(saved(image, "PNG", exif=exif))
    picture = picture_of(image)
    plain = image.copy()
    plain.info.clear()
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)  # from EXIF's table of row 0 and column 0
    upright = plain if turn is None else plain.transpose(Image.Transpose(turn))
    back = picture.to_pil()
    assert np.array_equal(back, upright)
    kept = back.getexif()
    assert (kept.get(0x0112), kept[0x010F], kept[0x8298]) == (None, "maker", "ours")
    assert kept.get_ifd(0x8769)[0x829A] == 0.5


def test_exif_without_orientation_is_kept_byte_by_byte(photo):
    exif = exif_with(make="maker", exposure=0.25).tobytes() + b"maker notes and a thumbnail"
    for form in ("JPEG", "PNG", "WEBP", "AVIF"):
        picture = read_picture(saved(photo, form, exif=exif))
        assert picture.exif == exif[6:]
        assert picture.to_pil().info["exif"] == exif


@pytest.mark.parametrize("order", ["<", ">"])
def test_taking_the_orientation_out_moves_nothing_else(order):
    entries = [(0x010F, 2, 6, 50), (0x0112, 3, 1, 6 if order == "<" else 6 << 16), (0x8298, 2, 5, 56)]
    words = struct.pack(f"{order}H", 3) + b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    exif = head + words + struct.pack(f"{order}I", 0) + b"maker\0ours\0"
    image = Image.new("RGB", (2, 3))
    image.info["exif"] = exif
    picture = picture_of(image)
    assert picture.pixels.shape == (2, 3, 3)
    assert len(picture.exif) == len(exif)
    assert picture.exif.endswith(exif[50:])
    kept = picture.to_pil().getexif()
    assert dict(kept) == {0x010F: "maker", 0x8298: "ours"}


def test_exif_of_tiff_is_what_describes_the_picture(photo):
    exif = exif_with(orientation=6, make="maker", exposure=0.5)
    picture = read_picture(saved(photo.crop((0, 0, 40, 30)), "TIFF", exif=exif.tobytes()))
    kept = picture.to_pil().getexif()
    assert picture.pixels.shape == (40, 30, 3)
    assert set(kept) == {0x010F, 0x8769}
    assert kept.get_ifd(0x8769)[0x829A] == 0.5
    assert read_picture(saved(photo, "TIFF")).exif is None


def test_imagemagicks_way_to_write_exif_into_png_is_read():
    exif = exif_with(orientation=6, make="maker").tobytes()
    image = Image.new("RGB", (2, 3))
    image.info["Raw profile type exif"] = f"\nexif\n{len(exif):8}\n{exif.hex()}\n"
    picture = picture_of(image)
    assert picture.pixels.shape == (2, 3, 3)
    assert dict(picture.to_pil().getexif()) == {0x010F: "maker"}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("damage", [b"nonsense", b"II*\0\xff\xff\0\0", b"II*\0\x08\0\0\0\x05"])
def test_damaged_exif_costs_the_exif_not_the_picture(photo, damage):
    image = photo.copy()
    image.info["exif"] = damage
    picture = picture_of(image)
    assert np.array_equal(picture.pixels, photo)
    assert picture.exif is None
    assert any("EXIF" in phrase for phrase in picture.lost)
    assert np.array_equal(to_rgb(image), photo)


@pytest.mark.parametrize(
    ("mode", "profile", "kept"),
    [
        ("RGB", SRGB, True),
        ("RGBA", SRGB, True),
        ("P", SRGB, True),
        ("L", GREY_PROFILE, True),
        ("I;16", GREY_PROFILE, True),
        ("L", SRGB, False),
        ("RGB", GREY_PROFILE, False),
        ("CMYK", CMYK_PROFILE, False),
        ("RGB", b"short", False),
    ],
)
def test_an_icc_profile_is_kept_if_it_fits_the_pixels(photo, mode, profile, kept):
    image = in_mode(photo, mode)
    image.info["icc_profile"] = profile
    picture = picture_of(image)
    assert picture.icc == (profile if kept else None)
    assert picture.to_pil().info.get("icc_profile") == picture.icc
    assert any("ICC" in phrase for phrase in picture.lost) != kept


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken_and_the_others_are_mentioned(photo, form):
    frames = [photo.resize((40, 30)).convert("L").point(lambda v, k=k: (v + 40 * k) % 256) for k in range(3)]
    file = saved(
        frames[0], form, save_all=True, append_images=frames[1:], **({"lossless": True} if form == "WEBP" else {})
    )
    picture = read_picture(file)
    assert picture.lost == ("only one of its 3 frames is kept",)
    assert np.array_equal(picture.pixels[..., 0], frames[0])


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (20000, 20)])
@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_pictures_of_any_shape_are_taken_whole(size, mode):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    assert np.array_equal(picture_of(image).to_pil(), image)


def test_a_picture_without_pixels_is_an_error():
    with pytest.raises(ImageError, match="no pixels"):
        picture_of(Image.new("RGB", (0, 5)))


def test_the_limit_of_pixels_is_ours_and_not_pillows(tmp_path, monkeypatch, recwarn):
    Image.new("L", (100, 100)).save(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_picture(tmp_path / "big.png", max_pixels=10_000).pixels.shape == (100, 100, 3)
    for limit in (9_999, 100):  # Pillow warns above its limit, and raises above twice the limit
        with pytest.raises(ImageError, match=f"exceeds the limit of {limit} pixels"):
            read_picture(tmp_path / "big.png", max_pixels=limit)
    assert Image.MAX_IMAGE_PIXELS == 10
    assert not recwarn


def test_files_that_are_no_pictures_are_an_error_with_a_reason(tmp_path, photo):
    whole = saved(photo, "PNG").read()
    for data, reason in ((b"", "not an image"), (b"text", "not an image"), (whole[:5000], "truncated")):
        with pytest.raises(ImageError, match=reason):
            read_picture(io.BytesIO(data))
    with pytest.raises(ImageError, match="no such file"):
        read_picture(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match=r"^Is a directory$"):
        read_picture(tmp_path)


# ---- more and less than 8 bits ----------------------------------------------------------------------------------


def deep_png(values: np.ndarray, *chunks: tuple[bytes, bytes]) -> io.BytesIO:
    """A PNG file of samples (H, W, C) of 16 bits."""
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return io.BytesIO(png_of(rows, values.shape[1], values.shape[0], 16, colour, *chunks))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_samples_are_kept_if_they_are_asked_for(channels):
    values = np.random.default_rng(channels).integers(0, 65536, (5, 7, channels), dtype=np.uint16)
    usual, deep = read_picture(deep_png(values)), read_picture(deep_png(values), keep_depth=True)
    assert np.array_equal(deep.deep, values)
    assert deep.deep.dtype == np.uint16
    assert usual.deep is None
    assert usual.lost == ("its 16-bit values are kept as 8 bits",)
    assert deep.lost == ()
    assert deep.shallow().lost == usual.lost
    assert usual.grey == (channels < 3)
    assert np.array_equal(deep.pixels, usual.pixels)


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_samples_of_tiff_files_are_kept_too(order):
    values = np.random.default_rng(0).integers(0, 65536, (4, 6, 3), dtype=np.uint16)
    picture = read_picture(io.BytesIO(deep_tiff(values, order)), keep_depth=True)
    assert np.array_equal(picture.deep, values)
    assert np.array_equal(picture.pixels, values >> 8)


def deep_tiff(values: np.ndarray, order: str) -> bytes:
    """A TIFF file of samples (H, W, 3) of 16 bits, in one strip."""
    height, width, _ = values.shape
    pixels = values.astype(f"{order}u2").tobytes()
    count = 9
    depths = 8 + 2 + 12 * count + 4
    numbers = [(256, 3, width), (257, 3, height), (259, 3, 1), (262, 3, 2), (273, 4, depths + 6), (277, 3, 3)]
    numbers += [(278, 3, height), (279, 4, len(pixels))]
    tags = {
        tag: (kind, 1, struct.pack(f"{order}{'HI'[kind - 3]}", value).ljust(4, b"\0")) for tag, kind, value in numbers
    }
    tags[258] = (3, 3, struct.pack(f"{order}I", depths))
    entries = b"".join(struct.pack(f"{order}HHI", tag, *tags[tag][:2]) + tags[tag][2] for tag in sorted(tags))
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, count)
    return head + entries + bytes(4) + struct.pack(f"{order}3H", 16, 16, 16) + pixels


def test_samples_of_a_colour_key_have_its_alpha():
    values = np.array([[[999] * 3, [1000] * 3]], dtype=np.uint16)
    picture = read_picture(deep_png(values, (b"tRNS", struct.pack(">3H", 0, 0, 0))), keep_depth=True)
    assert picture.deep.tolist() == [[[999, 999, 999, 65535], [1000, 1000, 1000, 65535]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_samples_stand_upright(orientation):
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    exif = exif_with(orientation=orientation).tobytes()[6:]
    picture = read_picture(deep_png(values, (b"eXIf", exif)), keep_depth=True)
    assert np.array_equal(picture.deep >> 8, picture.pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("top", [1023, 4000, 16383])
def test_12_bit_data_in_16_bits_are_reported_and_stretched_on_demand(channels, top):
    values = np.random.default_rng(0).integers(5, top + 1, (9, 9, channels), dtype=np.uint16)
    colours = values[..., : -1 if channels in (2, 4) else None]
    colours[0, 0], colours[-1, -1] = 5, top
    white = {1023: 1023, 4000: 4095, 16383: 16383}[top]
    usual, bright = read_picture(deep_png(values)), read_picture(deep_png(values), stretch=True)
    assert f"its values run from 5 to {top} of 65535, so it is dark; --stretch makes {white} white" in usual.lost
    assert f"its values from 5 to {top} are stretched: {white} becomes white" in bright.lost
    assert np.array_equal(bright.pixels, np.broadcast_to(np.floor(colours * 255.0 / white + 0.5), bright.pixels.shape))
    assert (bright.alpha is None) == (usual.alpha is None) == (channels in (1, 3))
    assert bright.alpha is None or np.array_equal(bright.alpha, usual.alpha)


def test_stretching_changes_no_picture_that_uses_its_range(photo):
    grey = np.asarray(photo.convert("L"))
    full = saved(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")
    assert np.array_equal(read_picture(full, stretch=True).pixels[..., 0], grey)
    for form in ("PNG", "JPEG"):
        usual, stretched = (read_picture(saved(photo, form), stretch=stretch) for stretch in (False, True))
        assert np.array_equal(usual.pixels, stretched.pixels)
        assert stretched.lost == ()


def test_integers_and_floats_of_a_larger_range_are_stretched_on_demand():
    wide = saved(Image.fromarray(np.array([[0, 2**20 - 1]], dtype=np.int32)), "TIFF")
    assert read_picture(wide, stretch=True).pixels[0, :, 0].tolist() == [0, 255]
    floats = saved(Image.fromarray(np.array([[0, 51, 255]], dtype=np.float32)), "TIFF")
    assert read_picture(floats, stretch=True).pixels[0, :, 0].tolist() == [0, 51, 255]
    for file in (wide, floats):
        file.seek(0)
        with pytest.raises(ImageError, match="pixel values must"):
            read_picture(file)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "GIF", "PPM", "PCX"])
def test_a_picture_of_1_bit_a_pixel_is_known_and_written_as_one(photo, form):
    bilevel = photo.convert("1")
    picture = read_picture(saved(bilevel, "PNG"))
    assert picture.bilevel
    assert picture.grey
    assert picture.to_pil().mode == "1"
    data, lost = encode_image(picture.to_pil(), {"TIFF": ".tiff", "PPM": ".pbm"}.get(form, f".{form.lower()}"))
    assert lost == ()
    back = Image.open(io.BytesIO(data))
    assert np.array_equal(back.convert("1"), bilevel)
    assert back.mode == "1" or form == "GIF"
    assert not read_picture(saved(photo.convert("L"), "PNG")).bilevel


# ---- formats of optional packages -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".jxl"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_heic_and_jpeg_xl_are_written_and_read(photo, tmp_path, suffix, mode):
    image = in_mode(photo, mode)
    data, lost = encode_image(image, suffix)
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(data)
    picture = read_picture(path)
    assert np.abs(np.asarray(picture.to_pil().convert(mode)).astype(int) - np.asarray(image)).mean() < 6
    assert picture.grey == (mode == "L")
    assert picture.lost == ()
    assert lost == (
        () if mode != "RGBA" else (f"{'JXL' if suffix == '.jxl' else 'HEIF'} keeps alpha only approximately",)
    )
    assert load_rgb(path).shape == (30, 40, 3)
    assert image_size(path) == (30, 40)


@pytest.mark.parametrize("suffix", [".heic", ".jxl", ".avif"])
def test_exif_survives_and_an_orientation_turns_the_picture_once(photo, suffix):
    image = photo.resize((40, 30))
    form = format_of(suffix)
    for orientation in (1, 6):
        exif = exif_with(orientation=orientation, make="maker").tobytes()
        picture = read_picture(saved(image, form, exif=exif))
        # JPEG XL has its own orientation. Readers must ignore the one in the EXIF data.
        turned = orientation == 6 and suffix != ".jxl"
        assert picture.pixels.shape == ((40, 30, 3) if turned else (30, 40, 3))
        assert picture.to_pil().getexif()[0x010F] == "maker"
        assert picture.to_pil().getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize(
    ("module", "form", "start", "suffix"),
    [
        ("pillow_heif", "HEIF", b"\0\0\0\x1cftypheic", ".heic"),
        ("pillow_heif", "HEIF", b"\0\0\0\x1cftypmif1", ".heif"),
        ("pillow_jxl", "JXL", b"\0\0\0\x0cJXL \r\n\x87\n", ".jxl"),
        ("pillow_jxl", "JXL", b"\xff\x0a", ".jxl"),
    ],
)
def test_a_missing_package_is_named_with_the_extra(monkeypatch, tmp_path, module, form, start, suffix):
    monkeypatch.delitem(Image.OPEN, form, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "a.bin").write_bytes(start + bytes(40))
    for read in (read_picture, load_rgb, image_size, lambda _: format_of(suffix)):
        with pytest.raises(ImageError, match=r"pip install 'agvae\[codecs\]'"):
            read(tmp_path / "a.bin")


def test_suffixes_of_pictures_are_known():
    assert all(map(is_picture, ("a.png", "b/c.JPG", "d.heic", "e.JXL", "f.tif")))
    assert not any(map(is_picture, ("a.agv", "b", "c.txt", "d.safetensors")))


# ---- image arguments --------------------------------------------------------------------------------------------


def test_every_kind_of_image_argument_is_the_same_picture(photo, tmp_path):
    pixels = np.asarray(photo)
    photo.save(tmp_path / "photo.png")
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255
    for image in (photo, pixels, tensor, tensor.double(), tmp_path / "photo.png", str(tmp_path / "photo.png")):
        picture = as_picture(image)
        assert np.array_equal(picture.pixels, pixels)
        assert not picture.grey
        assert as_picture(picture) is picture


def test_one_channel_is_a_grey_picture(photo):
    grey = np.asarray(photo.convert("L"))
    tensor = torch.from_numpy(grey.copy())[None] / 255
    for image in (photo.convert("L"), grey, grey[..., None], tensor):
        picture = as_picture(image)
        assert picture.grey
        assert np.array_equal(picture.to_pil(), grey)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4), np.float32), "array must be .* not .* float32"),
        (np.zeros((4, 4, 4), np.uint8), "array must be"),
        (np.zeros((4,), np.uint8), "array must be"),
        (np.zeros((0, 4), np.uint8), "array must be"),
        (torch.zeros(4, 4), "tensor must be"),
        (torch.zeros(2, 4, 4), "tensor must be"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), "tensor must be .* not .* torch.uint8"),
        (torch.full((3, 4, 4), 255.0), r"tensor must lie in \[0, 1\]"),
        (torch.full((1, 4, 4), float("nan")), r"tensor must lie in \[0, 1\]"),
        ("nowhere.png", r"nowhere\.png: no such file"),
        (None, "a PIL image, an array, a tensor or a path, not NoneType"),
    ],
)
def test_other_image_arguments_are_errors_that_say_what_is_taken(image, words):
    with pytest.raises(ValueError, match=words):
        as_picture(image)


# ---- to files ---------------------------------------------------------------------------------------------------

LOSSLESS = {"bmp", "dib", "dds", "im", "jp2", "pcx", "png", "ppm", "qoi", "sgi", "tga", "tiff"}
LOSSY = {"avif", "jpg", "jpeg", "mpo", "webp", "apng"}


@pytest.mark.filterwarnings("ignore:IM image format")
@pytest.mark.parametrize("suffix", sorted(LOSSLESS | LOSSY))
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_what_a_file_holds_is_the_picture_but_for_what_is_said(photo, suffix, mode):
    image = in_mode(photo, mode)
    data, lost = encode_image(image, f".{suffix.upper()}")
    back = Image.open(io.BytesIO(data))
    assert back.size == image.size
    reference = image
    if any("white" in phrase for phrase in lost):
        assert mode.endswith("A")
        reference = to_rgb(image)
    else:
        assert back.has_transparency_data == mode.endswith("A")
    found = np.asarray(back.convert(reference.mode)).astype(int)
    error = np.abs(found - np.asarray(reference))
    if suffix in LOSSLESS:
        assert error.max() == 0
    elif mode.endswith("A") and reference is image:
        assert error[..., -1].max() == 0 or any("approximately" in phrase for phrase in lost)
        assert error[..., -1].max() < 8
    if reference.mode[-1] != "A":
        assert error.mean() < 6
    assert len(lost) <= 1


@pytest.mark.parametrize("suffix", ["gif", "blp", "xbm", "msp", "palm", "eps", "pdf", "ico", "icns"])
@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_formats_of_few_colours_or_sizes_are_written_too_and_it_is_said(photo, suffix, mode):
    data, lost = encode_image(in_mode(photo, mode), f".{suffix}")
    assert data
    holds = {("gif", "L"), ("eps", "L"), ("pdf", "L"), ("pdf", "RGBA"), ("ico", "L"), ("ico", "RGBA")}
    assert bool(lost) == ((suffix, mode) not in holds)


def test_icons_keep_their_size_up_to_256(photo):
    data, lost = encode_image(photo.crop((0, 0, 200, 99)), ".ico")
    assert np.array_equal(Image.open(io.BytesIO(data)), photo.crop((0, 0, 200, 99)))
    assert not lost
    _, lost = encode_image(photo, ".ico")
    assert "scaled" in lost[0]


def test_alpha_that_hides_nothing_is_not_missed(photo):
    image = photo.copy()
    image.putalpha(255)
    assert encode_image(image, ".jpg")[1] == ()
    assert encode_image(image, ".bmp")[1] == ()


@pytest.mark.parametrize("suffix", ["avif", "bmp", "gif", "jp2", "jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("grey", [False, True])
def test_metadata_goes_into_the_file_or_is_mentioned(photo, suffix, grey):
    exif = exif_with(make="maker", exposure=0.5).tobytes()
    picture = Picture(np.asarray(photo), grey=grey, exif=exif[6:], icc=GREY_PROFILE if grey else SRGB)
    data, lost = encode_image(picture.to_pil(), f".{suffix}")
    back = picture_of(Image.open(io.BytesIO(data)))
    assert (back.icc == picture.icc) != any("ICC" in phrase for phrase in lost)
    assert (back.exif is not None) != any("EXIF" in phrase for phrase in lost)
    if back.exif is not None:
        assert back.to_pil().getexif()[0x010F] == "maker"
        assert back.to_pil().getexif().get_ifd(0x8769)[0x829A] == 0.5
    assert (suffix in ("avif", "jpg", "png", "tiff", "webp")) == (back.exif is not None)


def test_stripped_metadata_is_not_in_the_file(photo):
    image = photo.copy()
    image.info.update(exif=exif_with(make="maker").tobytes(), icc_profile=SRGB)
    picture = picture_of(image)
    bare = Picture(picture.pixels)
    for suffix in (".jpg", ".png", ".tiff", ".webp"):
        info = Image.open(io.BytesIO(encode_image(bare.to_pil(), suffix)[0])).info
        assert not info.keys() & {"exif", "icc_profile"}


def test_exif_too_long_for_jpeg_is_dropped_and_mentioned(photo):
    image = photo.copy()
    for length, kept in ((65527, True), (65528, False)):
        image.info["exif"] = exif_with(make="maker").tobytes().ljust(length + 6, b"\0")
        data, lost = encode_image(image, ".jpg")
        assert ("exif" in Image.open(io.BytesIO(data)).info) == kept
        assert bool(lost) != kept


def test_a_suffix_of_no_format_is_an_error():
    for suffix, words in ((".xyz", r"\.xyz"), ("", "none"), (".agv", r"\.agv")):
        with pytest.raises(ImageError, match=words):
            format_of(suffix)
    with pytest.raises(ImageError, match="cannot hold this picture"):
        encode_image(Image.new("RGB", (70000, 1)), ".jpg")
    with pytest.raises(ImageError, match="WEBP cannot hold"):
        encode_image(Image.new("RGB", (1, 20000)), ".webp")
