"""Files of every version of the bitstream decode to their original symbols, for ever (golden/README.md)."""

from pathlib import Path

import numpy as np
import pytest
from conftest import recording

from agvae.codec import Codec
from agvae.codec.bitstream import unpack
from agvae.codec.lossless import decompress_lossless

GOLDEN = Path(__file__).parent / "golden"

MINNEN = {"name": "minnen2018"}
RESIDUAL = {"name": "residual"}
DEPTHWISE = {"name": "depthwise", "blocks": 1}
HCVR = {"name": "hcvr", "levels": 3}
CVR = {"name": "cvr", "levels": 3}
NONE = {"name": "none", "levels": 1}

CASES = {
    f"v1-{case['context']}-{case['form']}": case
    for case in (
        {"context": "none", "form": "symmetric", "transforms": MINNEN, "gain": NONE, "quality": 0},
        {
            "context": "none",
            "form": "half_mass",
            "transforms": DEPTHWISE,
            "gain": HCVR,
            "quality": 0.7,
            "escapes": True,
        },
        {"context": "none", "form": "two_piece", "transforms": DEPTHWISE, "gain": CVR, "quality": 2},
        {"context": "checkerboard", "form": "symmetric", "transforms": DEPTHWISE, "gain": CVR, "quality": 1},
        {"context": "checkerboard", "form": "half_mass", "transforms": MINNEN, "gain": HCVR, "quality": 1.5},
        {"context": "multiscale", "form": "symmetric", "transforms": MINNEN, "gain": HCVR, "quality": 1.1},
        {"context": "multiscale", "form": "half_mass", "transforms": RESIDUAL, "gain": HCVR, "quality": 0.4},
        {"context": "quadtree", "form": "symmetric", "transforms": DEPTHWISE, "gain": HCVR, "quality": 1.9},
        {"context": "quadtree", "form": "two_piece", "transforms": MINNEN, "gain": HCVR, "quality": 1.2, "full": True},
    )
}

KEPT = {"exif": b"II*\0\x08\0\0\0\0\0\0\0\0\0", "xmp": b"<x:xmpmeta/>", "text": {"Title": "golden", "日本": "語"}}

VERSION_2 = {
    "v2-webp": {"mode": "RGBA", "kept": ("exif",)},
    "v2-png-1bit": {"mode": "1"},
    "v2-png-16bit": {"mode": "I;16"},
    "v2-learned": {"mode": "RGB", "kept": ("xmp", "text"), "model": "v1-checkerboard-half_mass", "quality": 1.5},
    "v2-extrapolated": {"mode": "RGB", "kept": (), "model": "v1-quadtree-symmetric", "quality": 3.6},
}


@pytest.mark.parametrize("case", CASES)
def test_golden_files_decode_to_the_same_symbols_and_pictures(case):
    expected = np.load(GOLDEN / f"{case}.npz")
    image, z, y = recording(Codec.load(GOLDEN / f"{case}.safetensors"), (GOLDEN / f"{case}.agv").read_bytes())
    assert np.array_equal(z, expected["z"])
    assert np.array_equal(y, expected["y"])
    if "pixels" in expected:
        assert np.abs(np.array(image).astype(int) - expected["pixels"]).max() <= 1
    if CASES[case].get("full"):
        assert image.mode == "LA"
        assert np.array_equal(np.array(image)[..., 1], expected["pixels"][..., 1])
        assert b"golden" in image.info["exif"]
        assert image.info["icc_profile"][16:20] == b"GRAY"


@pytest.mark.parametrize("case", VERSION_2)
def test_golden_files_of_version_2_decode_to_the_same_pictures(case):
    options, expected, data = VERSION_2[case], np.load(GOLDEN / f"{case}.npz"), (GOLDEN / f"{case}.agv").read_bytes()
    assert data[3] == 2
    if "model" in options:
        image, z, y = recording(Codec.load(GOLDEN / f"{options['model']}.safetensors"), data)
        assert np.array_equal(z, expected["z"])
        assert np.array_equal(y, expected["y"])
        assert np.abs(np.array(image).astype(int) - expected["pixels"]).max() <= 1
    else:
        image = decompress_lossless(unpack(data))
        assert np.array_equal(np.array(image), expected["pixels"])
    assert image.mode == options["mode"]
    for name in options.get("kept", ()):
        kept = image.info[name]
        assert (kept.removeprefix(b"Exif\0\0") if name == "exif" else kept) == KEPT[name]


def test_every_golden_file_is_tested():
    assert {path.stem for path in GOLDEN.glob("*.agv")} == set(CASES) | set(VERSION_2)
