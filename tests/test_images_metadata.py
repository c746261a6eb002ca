"""Metadata of picture files: bad metadata never loses the picture, and metadata that cannot be kept is reported."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import chunk, exif_with, png_of, saved, with_chunks
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from agvae import images
from agvae.images import Picture, encode_image, load_rgb, metadata, picture_of, read_picture
from agvae.images.metadata import MAX_METADATA

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LARGE = bytes(2 * 2**20)
SRGB_CHROMATICITIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
P3_CHROMATICITIES = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
PQ = bytes([9, 16, 0, 1])


@pytest.fixture
def small(photo):
    return photo.resize((40, 30))


def iccp(profile: bytes) -> bytes:
    return b"profile\0\0" + zlib.compress(profile)


def gama(gamma: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(gamma * 100000)))


def chrm(chromaticities) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *chromaticities))


# ---- bad metadata never loses the picture ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "word"),
    [
        (b"iCCP", iccp(LARGE), "ICC profile of over 1 MiB"),
        (b"zTXt", b"Title\0\0" + zlib.compress(LARGE), "text (Title) of over 1 MiB"),
        (b"iTXt", b"Title\0\1\0\0\0" + zlib.compress(LARGE), "text (Title) of over 1 MiB"),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LARGE), "XMP of over 1 MiB"),
        (b"tEXt", b"Title\0" + LARGE, "text (Title) of over 1 MiB"),
        (b"eXIf", exif_with(make="maker").tobytes()[6:] + LARGE, "EXIF data of over 1 MiB"),
        (b"iCCP", iccp(SRGB)[:-9], "ICC profile is damaged"),
        (b"iCCP", iccp(SRGB[:-9]), "ICC profile is damaged"),
        (b"iCCP", b"profile", "ICC profile is damaged"),
        (b"iCCP", b"profile\0\7" + zlib.compress(SRGB), "ICC profile is damaged"),
        (b"zTXt", b"Title\0\0nonsense", "text (Title) is damaged"),
        (b"zTXt", b"Title\0\7" + zlib.compress(b"words"), "text (Title) is damaged"),
        (b"iTXt", b"Title\0\1\0\0\0nonsense", "text (Title) is damaged"),
        (b"iTXt", b"Title\0\0\0", "text (Title) is damaged"),
        (b"iTXt", b"Title\0\0\0\0\0\xff\xff", "text (Title) is damaged"),
        (b"gAMA", b"\0", "gAMA chunk is damaged"),
        (b"cHRM", bytes(31), "cHRM chunk is damaged"),
        (b"pHYs", bytes(8), "resolution is damaged"),
        (b"sRGB", b"", "sRGB chunk is damaged"),
        (b"cICP", bytes(3), "cICP chunk is damaged"),
        (b"acTL", bytes(7), None),
        (b"fcTL", bytes(3), None),
        (b"iDOT", b"nonsense", None),
    ],
)
def test_a_png_file_is_read_whatever_its_metadata(small, tmp_path, name, data, word):
    file = with_chunks(saved(small, "PNG").read(), chunk(name, data))
    picture = read_picture(io.BytesIO(file))
    assert np.array_equal(picture.pixels, small)
    assert [word in phrase for phrase in picture.lost] == [True] * (word is not None), picture.lost
    (tmp_path / "a.png").write_bytes(file)
    assert np.array_equal(load_rgb(tmp_path / "a.png"), small)
    assert images.image_size(tmp_path / "a.png") == (30, 40)


@pytest.mark.parametrize(
    "name", ["sRGB", "gAMA", "cHRM", "pHYs", "tEXt", "zTXt", "iTXt", "iCCP", "eXIf", "cICP", "acTL", "tIME"]
)
def test_a_wrong_checksum_costs_its_chunk_and_not_the_picture(small, name):
    data = {"sRGB": b"\0", "gAMA": b"\0\0\xb1\x8f", "cHRM": bytes(32), "pHYs": bytes(9), "cICP": PQ}.get(
        name, b"Title\0\0x"
    )
    picture = read_picture(
        io.BytesIO(with_chunks(saved(small, "PNG").read(), chunk(name.encode(), data, damaged=True)))
    )
    assert np.array_equal(picture.pixels, small)
    assert len(picture.lost) == (name not in ("acTL", "tIME"))
    assert all("damaged" in phrase for phrase in picture.lost)


def test_damaged_transparency_costs_the_transparency(small):
    file = with_chunks(saved(small, "PNG").read(), chunk(b"tRNS", bytes(6), damaged=True))
    picture = read_picture(io.BytesIO(file))
    assert picture.alpha is None
    assert picture.lost == ("its transparency is damaged and is dropped",)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["tEXt", "zTXt", "iTXt", "iCCP", "eXIf", "gAMA", "cHRM", "cICP", "pHYs", "sRGB", "acTL", "fcTL", "fdAT"]
            ),
            st.one_of(
                st.binary(max_size=40), st.binary(max_size=20).map(lambda data: b"dpi\0\0" + zlib.compress(data))
            ),
            st.booleans(),
        ),
        max_size=6,
    )
)
def test_no_ancillary_chunks_keep_a_png_file_from_being_read(parts):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    file = png_of(b"".join(b"\0" + row.tobytes() for row in pixels), 4, 4, 8, 2)
    file = with_chunks(file, *(chunk(name.encode(), data, damaged=damaged) for name, data, damaged in parts))
    picture = read_picture(io.BytesIO(file))
    assert np.array_equal(picture.pixels, pixels)
    assert np.array_equal(read_picture(io.BytesIO(encode_image(picture.to_pil(), ".png")[0])).pixels, pixels)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda icc: icc[:-100],
        lambda icc: icc[:100],
        lambda icc: icc[:36] + b"nope" + icc[40:],
        lambda icc: icc[:136] + b"\xff\xff\xff\xff" + icc[140:],
    ],
)
def test_a_damaged_icc_profile_is_dropped_in_every_format(small, form, damage):
    whole, damaged = (read_picture(saved(small, form, icc_profile=icc)) for icc in (SRGB, damage(SRGB)))
    assert whole.icc == SRGB
    assert damaged.icc is None
    assert damaged.lost == ("its ICC profile is damaged and is dropped",)
    assert np.array_equal(whole.pixels, damaged.pixels)


def test_an_icc_profile_of_which_a_jpeg_file_lacks_a_part_is_dropped(small):
    data = saved(small, "JPEG", icc_profile=SRGB).read().replace(b"ICC_PROFILE\0\1\1", b"ICC_PROFILE\0\1\2")
    picture = read_picture(io.BytesIO(data))
    assert picture.icc is None
    assert picture.lost == ("its ICC profile is damaged and is dropped",)


# ---- text ------------------------------------------------------------------------------------------------------


def png_with_text(image, **text) -> io.BytesIO:
    info = PngInfo()
    for keyword, words in text.items():
        info.add_text(keyword, words, zip=len(words) > 100)
    return saved(image, "PNG", pnginfo=info)


def test_text_of_a_png_file_is_read_and_mentioned_unless_a_file_of_ours_holds_it(small, monkeypatch):
    text = {"parameters": "steps: 20, " * 50, "Title": "a title", "Author": "日本語"}
    picture = read_picture(png_with_text(small, **text))
    assert picture.text == text
    assert picture.lost == ()
    monkeypatch.setattr(metadata, "HELD", metadata.HELD - {"text"})
    assert read_picture(png_with_text(small, **text)).lost == ("its text (parameters, Title, Author) is dropped",)


def test_text_never_takes_the_place_of_what_pillow_keeps_under_the_same_name(small):
    words = dict.fromkeys(("exif", "icc_profile", "gamma", "dpi", "transparency", "text", "bit_depth"), "words")
    picture = read_picture(png_with_text(small, **words))
    assert picture.text == words
    assert (picture.exif, picture.icc, picture.alpha) == (None, None, None)
    assert picture.lost == ()


def test_many_keywords_are_one_line(small, monkeypatch):
    monkeypatch.setattr(metadata, "HELD", metadata.HELD - {"text"})
    (phrase,) = read_picture(png_with_text(small, **{f"key{k}": "x" for k in range(9)})).lost
    assert phrase == "its text (key0, key1, key2, key3, key4 and 4 more) is dropped"


def test_the_limit_holds_for_all_text_together(small):
    picture = read_picture(png_with_text(small, **dict.fromkeys(("a", "b", "c"), "x" * (MAX_METADATA // 2))))
    assert picture.text == {}
    assert picture.lost == ("its text (a, b, c) of over 1 MiB is dropped",)


@pytest.mark.parametrize(("form", "comment"), [("JPEG", "straße".encode()), ("GIF", b"words"), ("JPEG", b"stra\xdfe")])
def test_comments_are_text(small, form, comment):
    picture = read_picture(saved(small, form, comment=comment))
    assert picture.text == {"Comment": "words" if form == "GIF" else "straße"}
    assert picture.lost == ()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_xmp_is_read_without_its_orientation(small, form):
    images.format_of(".heic")  # loads the plugin
    xmp = b'<x:xmpmeta><a tiff:Orientation="6" b="c"/><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>'
    if form == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp)
        file = saved(small, form, pnginfo=info)
    elif form == "TIFF":
        tags = Image.Exif()
        tags[700] = xmp
        file = saved(small, form, exif=tags)
    else:
        file = saved(small, form, xmp=xmp)
    picture = read_picture(file)
    assert b"Orientation" not in picture.xmp
    assert b'b="c"' in picture.xmp
    assert not any("XMP" in phrase for phrase in picture.lost)
    assert picture.to_pil().getexif().get(0x0112) is None


def test_imagemagicks_raw_profiles_are_what_they_hold(small):
    def raw(name: str, data: bytes) -> str:
        return f"\n{name}\n{len(data):8}\n{data.hex()}\n"

    exif = exif_with(make="maker").tobytes()
    info = {"exif": exif, "xmp": b"<x/>", "icc": SRGB, "iptc": b"\x1c\2\5"}
    picture = read_picture(
        png_with_text(small, **{f"Raw profile type {name}": raw(name, data) for name, data in info.items()})
    )
    assert (picture.exif, picture.xmp, picture.icc) == (exif[6:], b"<x/>", SRGB)
    assert picture.text == {}
    assert picture.lost == ("its IPTC data is dropped",)


# ---- lost metadata is reported ---------------------------------------------------------------------------------


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def test_iptc_and_extended_xmp_of_jpeg_files_are_mentioned(small):
    data = saved(small, "JPEG").read()
    iptc = b"Photoshop 3.0\0" + b"8BIM" + struct.pack(">HHI", 0x0404, 0, 4) + b"\x1c\2\5\0"
    extended = b"http://ns.adobe.com/xmp/extension/\0" + bytes(40)
    picture = read_picture(io.BytesIO(data[:2] + segment(0xED, iptc) + segment(0xE1, extended) + data[2:]))
    assert picture.lost == ("its IPTC data and extended XMP are dropped",)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "BMP"])
@pytest.mark.parametrize(("dpi", "words"), [((300, 300), "300 dpi"), ((300, 150), "300 by 150 dpi"), ((72, 72), None)])
def test_a_resolution_is_mentioned_if_it_is_not_a_default(small, form, dpi, words):
    lost = read_picture(saved(small, form, dpi=dpi)).lost
    assert lost == (() if words is None else (f"its resolution ({words}) is dropped",))


def test_a_resolution_that_exif_has_too_is_kept(small):
    exif = exif_with(make="maker")
    exif[0x011A] = 300.0
    assert read_picture(saved(small, "JPEG", dpi=(300, 300), exif=exif)).lost == ()


def test_pixels_that_are_not_square_are_mentioned(small):
    file = with_chunks(saved(small, "PNG").read(), chunk(b"pHYs", struct.pack(">IIB", 2, 1, 0)))
    assert read_picture(io.BytesIO(file)).lost == ("its shape of pixels (2:1) is dropped",)


def test_tags_of_tiff_files_are_kept_as_exif_or_mentioned(small):
    tags = Image.Exif()
    tags[0x010D], tags[0x013C], tags[0x9C9B] = "document", "computer", "title".encode("utf-16-le")
    tags[33723], tags[34377], tags[65000] = b"\x1c\2\5\0", b"8BIM", "private"
    picture = read_picture(saved(small, "TIFF", exif=tags))
    kept = picture.to_pil().getexif()
    assert (kept[0x010D], kept[0x013C]) == ("document", "computer")
    assert 0x9C9B in kept
    assert picture.lost == ("its IPTC data, Photoshop data and TIFF tags (65000) are dropped",)


# ---- colours ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chunks",
    [
        (gama(0.45455),),
        (chrm(SRGB_CHROMATICITIES),),
        (gama(0.45455), chrm(SRGB_CHROMATICITIES)),
        (chunk(b"sRGB", b"\0"), gama(1.0), chrm(P3_CHROMATICITIES)),
        (chunk(b"cICP", bytes([1, 13, 0, 1])), gama(1.0)),
        (chunk(b"cICP", bytes([1, 1, 0, 1])),),
    ],
)
def test_descriptions_of_srgb_are_nothing_to_mention(small, chunks):
    picture = read_picture(io.BytesIO(with_chunks(saved(small, "PNG").read(), *chunks)))
    assert picture.icc is None
    assert picture.lost == ()


def srgb_of(linear: np.ndarray) -> np.ndarray:
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def linear_of(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


P3_TO_SRGB = np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]])


@pytest.mark.parametrize(
    ("chunks", "words", "decode", "matrix"),
    [
        ((gama(1.0),), "gAMA", lambda v: v, np.eye(3)),
        ((gama(1 / 1.8),), "gAMA", lambda v: v**1.8, np.eye(3)),
        ((chrm(P3_CHROMATICITIES),), "cHRM", linear_of, P3_TO_SRGB),
        ((gama(0.5), chrm(P3_CHROMATICITIES)), "gAMA and cHRM", lambda v: v**2, P3_TO_SRGB),
        ((chunk(b"cICP", bytes([12, 13, 0, 1])),), "CICP 12/13/0/1", linear_of, P3_TO_SRGB),
    ],
)
def test_other_descriptions_become_an_icc_profile_that_shows_the_same_colours(small, chunks, words, decode, matrix):
    picture = read_picture(io.BytesIO(with_chunks(saved(small, "PNG").read(), *chunks)))
    assert np.array_equal(picture.pixels, small)
    assert picture.lost == (f"its colours, described by {words}, are described by an ICC profile now",)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.icc))
    shown = ImageCms.profileToProfile(small, profile, ImageCms.createProfile("sRGB"), renderingIntent=1)
    expected = srgb_of(decode(picture.pixels / 255) @ matrix.T) * 255
    assert np.abs(np.asarray(shown) - expected).max() < 4
    assert np.abs(np.asarray(shown) - expected).mean() < 0.6


def test_a_gamma_of_grey_becomes_a_grey_profile(small):
    grey = small.convert("L")
    picture = read_picture(io.BytesIO(with_chunks(saved(grey, "PNG").read(), gama(1.0), chrm(P3_CHROMATICITIES))))
    assert picture.icc[16:20] == b"GRAY"
    shown = ImageCms.profileToProfile(grey, io.BytesIO(picture.icc), ImageCms.createProfile("sRGB"), outputMode="RGB")
    error = np.abs(np.asarray(shown)[..., 0] - srgb_of(np.asarray(grey) / 255) * 255)
    assert error.mean() < 0.6
    assert error[np.asarray(grey) > 16].max() < 3


@pytest.mark.parametrize("codes", [PQ, bytes([9, 18, 0, 1]), bytes([1, 13, 0, 0]), bytes([200, 13, 0, 1])])
def test_colours_that_no_profile_can_describe_are_mentioned(small, codes):
    picture = read_picture(io.BytesIO(with_chunks(saved(small, "PNG").read(), chunk(b"cICP", codes))))
    kind = {16: "PQ ", 18: "HLG "}.get(codes[1], "")
    assert picture.lost == (
        f"its {kind}colours (CICP {'/'.join(map(str, codes))}) are taken for sRGB, so they look different",
    )
    assert picture.icc is None


def test_an_icc_profile_wins_over_gamma_and_chromaticities(small):
    file = with_chunks(saved(small, "PNG", icc_profile=SRGB).read(), gama(1.0), chrm(P3_CHROMATICITIES))
    picture = read_picture(io.BytesIO(file))
    assert picture.icc == SRGB
    assert picture.lost == ()


def test_chromaticities_of_no_colour_space_are_dropped(small):
    picture = read_picture(io.BytesIO(with_chunks(saved(small, "PNG").read(), chrm((1,) * 8))))
    assert picture.icc is None
    assert picture.lost == ("its cHRM cannot be used and is dropped",)


def test_pq_and_depth_of_avif_files_are_mentioned(small):
    data = saved(small, "AVIF").read()
    at = data.index(b"colrnclx")
    pq = data[: at + 8] + struct.pack(">HH", 9, 16) + data[at + 12 :]
    assert read_picture(io.BytesIO(data)).lost == ()
    assert (
        "its PQ colours (CICP 9/16/0/1) are taken for sRGB, so they look different" in read_picture(io.BytesIO(pq)).lost
    )


# ---- written files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["avif", "bmp", "gif", "heic", "jp2", "jpg", "jxl", "png", "tiff", "webp"])
def test_xmp_and_text_go_into_the_file_or_are_mentioned(small, suffix):
    picture = Picture(np.asarray(small), xmp=b"<x/>", text={"Title": "t" * 3000, "Comment": "日本語"})
    data, lost = encode_image(picture.to_pil(), f".{suffix}")
    back = read_picture(io.BytesIO(data))
    assert (back.xmp == picture.xmp) != any("XMP" in phrase for phrase in lost)
    assert (back.xmp is not None) == (suffix not in ("bmp", "gif", "jp2"))
    expected = picture.text if suffix == "png" else {"Comment": "日本語"} if suffix in ("jpg", "gif") else {}
    assert back.text == expected
    missing = picture.text.keys() - expected.keys()
    assert all(any(keyword in phrase for phrase in lost) for keyword in missing)
    assert any("text" in phrase for phrase in lost) == bool(missing)


def test_exif_and_xmp_go_into_a_tiff_file_together(small):
    exif = exif_with(make="maker", exposure=0.5).tobytes()[6:]
    data, lost = encode_image(Picture(np.asarray(small), exif=exif, xmp=b"<x/>").to_pil(), ".tiff")
    back = read_picture(io.BytesIO(data))
    assert lost == ()
    assert back.xmp == b"<x/>"
    assert back.to_pil().getexif()[0x010F] == "maker"
    assert back.to_pil().getexif().get_ifd(0x8769)[0x829A] == 0.5


def test_xmp_too_long_for_jpeg_is_dropped_and_mentioned(small):
    for length, kept in ((65504, True), (65505, False)):
        data, lost = encode_image(Picture(np.asarray(small), xmp=b"x" * length).to_pil(), ".jpg")
        assert (read_picture(io.BytesIO(data)).xmp is not None) == kept
        assert bool(lost) != kept


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="latin-1", exclude_characters="\0"), min_size=1, max_size=79),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    )
)
def test_text_comes_back_from_a_png_file(text):
    text = {
        keyword: words for keyword, words in text.items() if not keyword.startswith(("Raw profile type ", "XML:com"))
    }
    back = read_picture(io.BytesIO(encode_image(Picture(np.zeros((1, 1, 3), np.uint8), text=text).to_pil(), ".png")[0]))
    assert back.text == text


def test_text_of_an_image_in_memory_is_taken(small):
    small.info.update(parameters="steps: 20", exif=b"", compression="jpeg")
    assert picture_of(small).text == {"parameters": "steps: 20"}
