"""HEIC and JPEG XL, external programs (replaced by tests/codec_programs.py), and the search for a rate."""

import os
import stat
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agvae import evaluation
from agvae.codec.rate_control import TargetError
from agvae.errors import ConfigError
from agvae.evaluation import CLASSICAL_CODECS, MissingCodecError, at_rate, classical_codec
from agvae.evaluation.external import BPGCodec, CodecError, VTMCodec, VVenCCodec
from agvae.evaluation.ycbcr import rgb_to_ycbcr, subsample, upsample, ycbcr_to_rgb

ROOT = Path(__file__).parents[1]
EXTERNAL = (BPGCodec, VTMCodec, VVenCCodec)
PROGRAMS = tuple(program for codec in EXTERNAL for program in codec.programs)


def write_program(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """The folder in which temporary folders are made."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def programs(tmp_path, scratch, monkeypatch):
    """A folder laid out like VTM's sources. Its bin holds all programs and is all of PATH."""
    folder = tmp_path / "vtm" / "bin"
    folder.mkdir(parents=True)
    text = (ROOT / "tests/codec_programs.py").read_text()
    for name in PROGRAMS:
        write_program(folder / name, f"#!{sys.executable} -I\n{text}")
    (tmp_path / "vtm/cfg").mkdir()
    (tmp_path / "vtm/cfg/encoder_intra_vtm.cfg").write_text("IntraPeriod : 1\n")
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def empty_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def failing(tmp_path, scratch):
    """Makes BPG codecs whose programs are a shell script."""

    def make(script, **settings):
        for name in BPGCodec.programs:
            write_program(tmp_path / name, f"#!/bin/sh\n{script}\n")
        return BPGCodec({name: str(tmp_path / name) for name in BPGCodec.programs} | settings)

    return make


def colours(step):
    """A picture with all colours of a grid that includes 0 and 255, (n, n², 3) for n values."""
    values = np.unique(np.r_[np.arange(0, 256, step), 255]).astype(np.uint8)
    return np.stack(np.meshgrid(values, values, values), -1).reshape(len(values), -1, 3)


@pytest.mark.parametrize(("bits", "bound"), [(8, 1), (10, 0), (12, 0)])
def test_rgb_survives_ycbcr(bits, bound):
    rgb = colours(5)
    ycbcr = rgb_to_ycbcr(rgb, bits)
    assert ycbcr.max() == 2**bits - 1
    assert np.abs(ycbcr_to_rgb(ycbcr, bits).astype(int) - rgb).max() <= bound


@pytest.mark.parametrize(
    ("rgb", "ycbcr"),
    [
        ((0, 0, 0), (0, 512, 512)),
        ((255, 255, 255), (1023, 512, 512)),
        ((255, 0, 0), (217, 395, 1023)),
        ((0, 255, 0), (732, 118, 47)),
        ((0, 0, 255), (74, 1023, 465)),
    ],
)
def test_ycbcr_is_bt709_in_full_range(rgb, ycbcr):
    np.testing.assert_array_equal(rgb_to_ycbcr(np.array([[rgb]], np.uint8), 10)[0, 0], ycbcr)


def test_chroma_samples_lie_amid_their_four_pixels():
    random = np.random.default_rng(0)
    blocks = random.integers(0, 1024, (6, 8, 3), np.uint16).repeat(2, 0).repeat(2, 1)
    luma, cb, cr = subsample(blocks)
    np.testing.assert_array_equal(luma, blocks[..., 0])
    np.testing.assert_array_equal(np.stack([cb, cr], -1), blocks[::2, ::2, 1:])
    ramp = np.add.outer(20 * np.arange(12), 30 * np.arange(16)).astype(np.uint16)
    planes = np.stack([ramp] * 3, -1)
    inner = np.s_[1:-1, 1:-1]  # the border has no neighbours for interpolation
    np.testing.assert_array_equal(upsample(*subsample(planes))[inner], planes[inner])


@pytest.mark.parametrize("codec", [BPGCodec, VTMCodec])
def test_programs_get_and_give_every_pixel(codec, programs, scratch, photo):
    codec = codec()
    picture = photo.crop((100, 60, 145, 93))  # 45 × 33
    data = codec.encode(picture, 0)
    in_file = Image.open(BytesIO(data if codec.name == "bpg" else data[4:]), formats=["PNG"])
    np.testing.assert_array_equal(in_file, picture)
    np.testing.assert_array_equal(codec.decode(data), picture)
    assert not list(scratch.iterdir())


def test_vvenc_loses_only_chroma_resolution(programs, scratch, photo):
    codec = VVenCCodec()
    random = np.random.default_rng(0)
    blocks = Image.fromarray(random.integers(0, 256, (12, 20, 3), np.uint8).repeat(2, 0).repeat(2, 1))
    in_file = Image.open(BytesIO(codec.encode(blocks, 0)[4:]), formats=["PNG"])
    np.testing.assert_array_equal(in_file, blocks)
    picture = photo.resize((95, 63), Image.Resampling.BICUBIC)
    decoded = codec.decode(codec.encode(picture, 0))
    assert decoded.size == picture.size
    luma = [rgb_to_ycbcr(np.asarray(image), 10)[..., 0].astype(int) for image in (picture, decoded)]
    assert np.abs(luma[0] - luma[1]).mean() < 6  # colours outside the gamut are clipped
    assert evaluation.psnr(picture, decoded) > 30
    assert not list(scratch.iterdir())


def test_quality_of_programs_is_qp_from_low_to_high_rate(programs, photo):
    picture = photo.resize((64, 64))
    for codec in (BPGCodec(), VTMCodec(), VVenCCodec()):
        assert set(codec.qualities) <= set(codec.scale)
        files = [codec.encode(picture, qp) for qp in codec.qualities[::3]]
        assert [len(file) for file in files] == sorted({len(file) for file in files})


def test_what_a_failing_program_said_last_is_the_error(failing, scratch, photo):
    codec = failing("echo opening >&2\necho 'bad picture' >&2\necho >&2\nexit 3")
    with pytest.raises(CodecError, match=r"^bpg: bpgenc ended with status 3: bad picture$"):
        codec.encode(photo, 30)
    with pytest.raises(CodecError, match=r"^bpg: bpgdec ended with status 3: bad picture$"):
        codec.decode(b"data")
    with pytest.raises(CodecError, match=r"^bpg: bpgenc wrote no file: all is well$"):
        failing("echo all is well").encode(photo, 30)
    assert not list(scratch.iterdir())


def test_a_program_that_hangs_is_stopped(failing, scratch, photo):
    with pytest.raises(CodecError, match=r"^bpg: bpgenc was stopped after 0\.2 s; set a higher programs\.timeout"):
        failing("exec sleep 60", timeout=0.2).encode(photo, 30)
    assert not list(scratch.iterdir())


def test_raw_video_of_the_wrong_size_is_an_error(programs, photo):
    codec = VTMCodec()
    data = codec.encode(photo.resize((20, 10)), 0)
    with pytest.raises(CodecError, match="the decoder wrote 1200 bytes instead of 1260"):
        codec.decode(bytes([0, 21]) + data[2:])


def test_wrong_options_are_refused_by_the_stand_in(programs, photo, monkeypatch):
    """Without this, the tests above would not check the options."""
    monkeypatch.setattr("agvae.evaluation.external._BITS", 8)
    for codec in (VTMCodec(), VVenCCodec()):
        with pytest.raises(CodecError, match="invalid choice"):
            codec.encode(photo.resize((8, 8)), 20)
    with pytest.raises(CodecError, match="invalid choice: 60"):
        BPGCodec().encode(photo.resize((8, 8)), 60)


@pytest.mark.parametrize("codec", EXTERNAL)
def test_a_missing_program_is_named_with_how_to_get_it(codec, empty_path):
    with pytest.raises(MissingCodecError, match=rf"{codec.name} needs the program {codec.programs[0]}: get .*https://"):
        classical_codec(codec.name)


def test_programs_are_found_by_configured_paths(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", os.defpath)
    paths = {name: str(programs / name) for name in VTMCodec.programs}
    assert classical_codec("vtm", {**dict.fromkeys(PROGRAMS), **paths, "timeout": None}).name == "vtm"
    with pytest.raises(
        ConfigError, match=r"programs\.EncoderApp must be the path of an executable program, not /nowhere"
    ) as raised:
        classical_codec("vtm", paths | {"EncoderApp": "/nowhere"})
    assert not isinstance(raised.value, MissingCodecError)
    with pytest.raises(ConfigError, match=r"programs\.vtm_config must be .* no file /nowhere"):
        classical_codec("vtm", paths | {"vtm_config": "/nowhere"})
    with pytest.raises(
        ConfigError, match=r"programs\.timeout must be a number of seconds above 0, or null for no limit, not soon"
    ):
        classical_codec("vtm", paths | {"timeout": "soon"})
    (tmp_path / "vtm/cfg/encoder_intra_vtm.cfg").rename(tmp_path / "my.cfg")
    with pytest.raises(
        MissingCodecError, match=r"vtm needs the file encoder_intra_vtm\.cfg .*programs\.vtm_config=PATH"
    ):
        classical_codec("vtm", paths)
    assert classical_codec("vtm", paths | {"vtm_config": str(tmp_path / "my.cfg")}).name == "vtm"


def test_vtm_is_found_under_the_name_its_build_gives_it(programs):
    for name in VTMCodec.programs:
        (programs / name).rename(programs / f"{name}Static")
    assert classical_codec("vtm").name == "vtm"


@pytest.mark.parametrize(("name", "package"), [("heic", "pillow_heif"), ("jpegxl", "pillow_jxl")])
def test_a_missing_package_is_named_with_how_to_get_it(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingCodecError, match=rf"{name} needs {package}, .*: pip install -e '.\[codecs\]'"):
        classical_codec(name)


def test_heic_keeps_the_resolution_of_colours(photo):
    """With 4:4:4, stripes of two colours, one pixel wide, survive."""
    stripes = np.empty((64, 64, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = (200, 60, 60), (20, 120, 90)
    coded = classical_codec("heic").encode(Image.fromarray(stripes), 95)
    assert evaluation.psnr(stripes, classical_codec("heic").decode(coded)) > 35


class Ladder:
    """A codec whose files have the given sizes in bytes. The red of a decoded picture is the size of its file."""

    name = "ladder"

    def __init__(self, sizes):
        self.sizes = sizes
        self.scale = range(100, 100 + len(sizes))
        self.calls = 0

    def encode(self, image, quality):
        self.calls += 1
        return bytes(self.sizes[quality - 100])

    def decode(self, data):
        return Image.new("RGB", (8, 4), (len(data), 0, 0))


def test_the_rate_found_is_the_highest_that_is_not_over_the_target():
    sizes = sorted(np.random.default_rng(0).choice(np.arange(5, 250), 100, replace=False).tolist())
    image = np.zeros((4, 8, 3), np.uint8)
    for target in range(sizes[0], 256):
        codec = Ladder(sizes)
        coded = at_rate(codec, image, bpp=8 * target / 32)
        best = max(size for size in sizes if size <= target)
        assert (coded.bpp, coded.quality) == (8 * best / 32, 100 + sizes.index(best))
        assert coded.image.shape == image.shape
        assert coded.image.dtype == np.uint8
        assert coded.image[0, 0, 0] == best
        assert codec.calls <= 7


def test_a_rate_below_the_lowest_is_an_error():
    with pytest.raises(TargetError, match=r"0\.5 bpp is out of range: ladder needs at least 2\.5000 bpp"):
        at_rate(Ladder([10, 20, 30]), np.zeros((4, 8, 3), np.uint8), 0.5)


@pytest.mark.parametrize("name", [*CLASSICAL_CODECS, "bpg"])
def test_a_target_rate_is_met_closely(name, programs, photo):
    image = np.asarray(photo.crop((100, 0, 228, 128)))
    target = 2.0
    coded = at_rate(classical_codec(name), image, target)
    assert 0.85 * target < coded.bpp <= target
    assert evaluation.psnr(image, coded.image) > 25


def test_the_runner_takes_programs(programs, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(BPGCodec, "qualities", (42, 22))
    photo.crop((0, 0, 70, 50)).save(tmp_path / "photo.png")
    run = evaluation.evaluate_codecs([classical_codec("bpg")], [tmp_path / "photo.png"])
    assert [row["quality"] for row in run.rows] == [42, 22]
    assert run.rows[0]["bytes"] == len(BPGCodec().encode(photo.crop((0, 0, 70, 50)), 42))
    results = run.curves()[0].results
    assert results["bpp"] == sorted(results["bpp"])


def test_a_program_that_fails_on_a_picture_leaves_it_out(failing, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    run = evaluation.evaluate_codecs([failing("echo too large >&2; exit 1")], [tmp_path / "photo.png"])
    assert run.skipped == {str(tmp_path / "photo.png"): "bpg: bpgenc ended with status 1: too large"}
