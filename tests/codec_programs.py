"""A stand-in for bpgenc, bpgdec, EncoderApp, DecoderApp, vvencapp and vvdecapp, selected by the name of the file.

It accepts the options that agvae may give to these programs and refuses all others. A coded file holds the RGB picture,
as PNG for QP 0 and otherwise as JPEG. This program converts raw video with BT.709 matrices in full range, independently
of agvae.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

TO_RGB = np.array([[1, 0, 1.5748], [1, -0.18732427, -0.46812427], [1, 1.8556, 0]])
MIDDLE, PEAK = np.array([0, 512, 512]), 1023


def main() -> None:
    program = Path(sys.argv[0]).name
    parser = argparse.ArgumentParser(program, allow_abbrev=False)
    fixed = {
        "bpgenc": {"-f": "444", "-b": "8", "-c": "ycbcr", "-e": "x265"},
        "EncoderApp": {
            **{"-fr": "1", "-f": "1", "--ConformanceWindowMode": "1"},
            **{"--InputChromaFormat": "444", "--InputBitDepth": "10", "--InternalBitDepth": "10"},
        },
        "DecoderApp": {"-d": "10"},
        "vvencapp": {"-c": "yuv420_10", "-r": "1", "-f": "1", "--preset": "slower", "--qpa": "0"},
    }
    files = {
        "bpgenc": ("file", "-o"),
        "bpgdec": ("file", "-o"),
        "EncoderApp": ("-i", "-b"),
        "DecoderApp": ("-b", "-o"),
        "vvencapp": ("-i", "-o"),
        "vvdecapp": ("-b", "-o"),
    }
    for option, value in fixed.get(program, {}).items():
        parser.add_argument(option, choices=[value], required=True)
    source, target = files[program]
    parser.add_argument(source, **({} if source == "file" else {"required": True, "dest": "file"}))
    parser.add_argument(target, required=True, dest="target")
    coding = program in ("bpgenc", "EncoderApp", "vvencapp")
    if coding:
        parser.add_argument("-q", type=int, required=True, choices=range(52 if program == "bpgenc" else 64))
    if program == "EncoderApp":
        parser.add_argument("-c", required=True, type=open)
        parser.add_argument("-wdt", type=int, required=True, dest="width")
        parser.add_argument("-hgt", type=int, required=True, dest="height")
    if program == "vvencapp":
        parser.add_argument("-s", required=True, dest="size")
    options = parser.parse_args()

    if program == "bpgenc":
        coded = code(Image.open(options.file, formats=["PNG"]), options.q)
    elif program == "EncoderApp":
        coded = code(read_video(options.file, options.width, options.height, 1), options.q)
    elif program == "vvencapp":
        coded = code(read_video(options.file, *map(int, options.size.split("x")), 2), options.q)
    else:
        picture = Image.open(options.file, formats=["PNG", "JPEG"])
        if program == "bpgdec":
            picture.save(options.target, "PNG")
        else:
            write_video(picture, options.target, 2 if program == "vvdecapp" else 1)
        return
    Path(options.target).write_bytes(coded)


def code(picture: Image.Image, qp: int) -> bytes:
    assert picture.mode == "RGB"
    stream = io.BytesIO()
    if qp:
        picture.save(stream, "JPEG", quality=100 - 3 * qp // 2, subsampling=0)
    else:
        picture.save(stream, "PNG")
    return stream.getvalue()


def read_video(path: str, width: int, height: int, step: int) -> Image.Image:
    """Read one frame of 10-bit values in 16-bit words. Chroma has every `step`-th row and column."""
    words = np.fromfile(path, "<u2")
    shapes = [(height, width)] + 2 * [(height // step, width // step)]
    assert words.size == sum(rows * columns for rows, columns in shapes), "wrong size of file"
    assert words.max() <= PEAK, "more than 10 bits"
    planes, start = [], 0
    for rows, columns in shapes:
        planes.append(words[start : start + rows * columns].reshape(rows, columns))
        start += rows * columns
    planes[1:] = [plane.repeat(step, 0).repeat(step, 1) for plane in planes[1:]]
    rgb = (np.stack(planes, -1) - MIDDLE) / PEAK @ TO_RGB.T
    return Image.fromarray(np.rint(255 * rgb).clip(0, 255).astype(np.uint8))


def write_video(picture: Image.Image, path: str, step: int) -> None:
    codes = np.asarray(picture) / 255 @ np.linalg.inv(TO_RGB).T * PEAK + MIDDLE
    planes = np.moveaxis(np.rint(codes).clip(0, PEAK).astype("<u2"), -1, 0)
    Path(path).write_bytes(b"".join(p.tobytes() for p in (planes[0], *(q[::step, ::step] for q in planes[1:]))))


if __name__ == "__main__":
    main()
