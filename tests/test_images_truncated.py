"""Truncated files: the readable part is used and its share reported. Less than half is an error."""

import io
import re
import threading
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import SIGNATURE, chunk, png_of, saved
from PIL import Image, ImageFile

from agvae.images import ImageError, Picture, load_rgb, read_picture

JPEGS = {
    "baseline": {},
    "grey": {},
    "4:4:4": {"subsampling": 0},
    "restarts": {"restart_marker_rows": 1},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
}


def jpeg(photo: Image.Image, kind: str) -> bytes:
    return saved(photo.convert("L") if kind == "grey" else photo, "JPEG", quality=85, **JPEGS[kind]).read()


def percent_of(phrase: str) -> int:
    """The percentage of the picture that can be read, from an error or a phrase of `Picture.lost`."""
    return 100 if "is whole" in phrase else int(re.search(r"(\d+) %", phrase)[1])


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("missing", [1, 2, 5, 300])
def test_a_jpeg_file_that_lacks_a_few_bytes_is_read(photo, kind, missing):
    data = jpeg(photo, kind)
    whole, cut = read_picture(io.BytesIO(data)), read_picture(io.BytesIO(data[:-missing]))
    assert whole.lost == ()
    assert len(cut.lost) == 1
    assert "cut short" in cut.lost[0]
    rows = 512 if missing <= 2 else 480
    if kind != "progressive":
        assert np.array_equal(whole.pixels[:rows], cut.pixels[:rows])
    assert np.abs(whole.pixels[:480].astype(int) - cut.pixels[:480]).mean() < 1
    if missing <= 2:
        assert "the picture is whole" in cut.lost[0]


def outcome(data: bytes) -> Picture | str:
    """The picture in a file, or the error message."""
    try:
        return read_picture(io.BytesIO(data))
    except ImageError as error:
        return str(error)


@pytest.mark.parametrize("kind", sorted(JPEGS.keys() - {"progressive"}))
def test_the_share_of_a_jpeg_file_is_that_of_the_rows_that_are_right(photo, kind):
    data = jpeg(photo, kind)
    whole = read_picture(io.BytesIO(data)).pixels
    cuts = range(len(data) // 3, len(data), len(data) // 9)
    found = [outcome(data[:cut]) for cut in cuts]
    assert any(isinstance(one, str) for one in found)
    for one in found:
        if isinstance(one, str):
            assert "truncated" in one
            assert percent_of(one) < 50
            continue
        percent = percent_of(one.lost[0])
        rows = 512 * percent // 100
        assert percent >= 50
        assert np.array_equal(one.pixels[:rows], whole[:rows])
        assert rows > 470 or not np.array_equal(one.pixels[rows + 40 :], whole[rows + 40 :])


def test_a_progressive_jpeg_file_without_its_last_scans_is_whole_but_coarser(photo):
    data = jpeg(photo, "progressive")
    whole = read_picture(io.BytesIO(data)).pixels.astype(int)
    picture = read_picture(io.BytesIO(data[: len(data) // 2]))
    assert picture.lost == ("it is cut short: the picture is whole, but coarser than it was",)
    assert 0 < np.abs(picture.pixels - whole).mean() < 12
    with pytest.raises(ImageError, match=r"truncated.*only [0-4]?\d %"):
        read_picture(io.BytesIO(data[:1500]))


@pytest.mark.parametrize("value", [0, 77, 128, 255])
def test_a_flat_picture_that_lacks_its_end_is_whole(value):
    data = saved(Image.new("RGB", (64, 64), (value,) * 3), "JPEG").read()
    picture = read_picture(io.BytesIO(data[:-2]))
    assert picture.lost == ("it is cut short or damaged at its end: the picture is whole",)
    assert np.all(picture.pixels == value)


def test_a_jpeg_file_of_which_only_the_header_is_left_is_an_error(photo):
    data = jpeg(photo, "baseline")
    for cut in (3, 100, 400, data.index(b"\xff\xda") + 14):
        with pytest.raises(ImageError):
            read_picture(io.BytesIO(data[:cut]))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16"])
def test_a_png_file_that_is_cut_short_has_the_rows_that_are_there(photo, mode):
    grey = photo.convert("L")
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else photo.convert(mode)
    data = saved(image, "PNG").read()
    whole = read_picture(io.BytesIO(data)).pixels
    for share in (0.7, 0.9, 0.999):
        picture = read_picture(io.BytesIO(data[: int(share * len(data))]))
        percent = percent_of(picture.lost[0])
        rows = 512 * percent // 100
        assert percent >= 50
        assert np.array_equal(picture.pixels[:rows], whole[:rows])
        assert not picture.pixels[rows + 8 :].any()
    with pytest.raises(ImageError, match=r"truncated.*only \d+ %"):
        read_picture(io.BytesIO(data[: len(data) // 4]))


@pytest.mark.parametrize("missing", [1, 4, 12, 14])
def test_a_png_file_that_lacks_only_its_end_is_whole(photo, missing):
    picture = read_picture(io.BytesIO(saved(photo, "PNG").read()[:-missing]))
    assert np.array_equal(picture.pixels, photo)


def test_a_png_file_with_a_fault_in_its_stream_has_the_rows_before_it(photo):
    stream = zlib.compress(b"".join(b"\0" + row.tobytes() for row in np.asarray(photo)), 9)
    damaged = bytearray(stream)
    damaged[len(stream) * 3 // 4 :] = bytes(len(stream) - len(stream) * 3 // 4)
    file = png_of(b"", 512, 512, 8, 2)
    at = file.index(b"IDAT") - 4
    picture = read_picture(io.BytesIO(file[:at] + chunk(b"IDAT", bytes(damaged)) + chunk(b"IEND", b"")))
    assert np.array_equal(picture.pixels[:256], np.asarray(photo)[:256])
    assert "can be read" in picture.lost[0]


def interlaced(pixels: np.ndarray) -> bytes:
    """The rows of a PNG file of RGB pixels in seven passes, and the file."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    parts = [pixels[top::down, left::right] for left, top, right, down in passes]
    rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    height, width = pixels.shape[:2]
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, 2, 0, 0, 1))
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_an_interlaced_png_file_that_is_cut_short_has_the_pixels_that_are_there(photo):
    pixels = np.asarray(photo)[:301, :203]
    data = interlaced(pixels)
    assert np.array_equal(read_picture(io.BytesIO(data)).pixels, pixels)
    picture = read_picture(io.BytesIO(data[: len(data) * 4 // 5]))
    right = (picture.pixels == pixels).all(axis=2)
    assert right[::2].all()
    percent = percent_of(picture.lost[0])
    assert right.mean() * 100 == pytest.approx(percent, abs=2)
    with pytest.raises(ImageError, match="truncated"):
        read_picture(io.BytesIO(data[: len(data) // 3]))


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "progressive"]), st.floats(0, 1))
def test_a_file_cut_anywhere_is_a_picture_of_its_size_or_an_error(form, share):
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    data = saved(image, "JPEG", progressive=True).read() if form == "progressive" else saved(image, form).read()
    found = outcome(data[: int(share * len(data))])
    assert found if isinstance(found, str) else found.pixels.shape == noise.shape


def test_training_and_evaluation_take_whole_files_only(photo, tmp_path):
    for form, name in (("JPEG", "a.jpg"), ("PNG", "a.png")):
        (tmp_path / name).write_bytes(saved(photo, form).read()[:-300])
        with pytest.raises(ImageError, match="truncated"):
            load_rgb(tmp_path / name)
        assert read_picture(tmp_path / name).pixels.shape == (512, 512, 3)


def test_reading_a_file_that_is_cut_short_does_not_change_what_other_threads_read(photo):
    data = jpeg(photo, "baseline")[:-300]
    leaks, done = [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            leaks.append(ImageFile.LOAD_TRUNCATED_IMAGES)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(5):
        read_picture(io.BytesIO(data))
    done.set()
    watcher.join()
    assert not any(leaks)
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(data)).load()
