"""Properties of the `agvae` command, run as users run it."""

import errno
import io
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import TINY, lively_model
from PIL import Image, ImageCms

from agvae import cli, files, shipped
from agvae.codec import Codec, bitstream, model_file
from agvae.codec.bitstream import Header
from agvae.codec.lossless import compress_lossless
from agvae.images import Picture

HEAVY = [
    *("compressai", "hydra", "lightning", "matplotlib", "pandas", "sympy"),
    *("torch._dynamo", "torch_geometric", "torchvision", "wandb"),
]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="module")
def model(tmp_path_factory, photo):
    """A model that decodes everything to nearly the mean colour of `small_photo`, so the codec keeps its files."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    made = lively_model(TINY)
    last = made.g_s[-1]
    with torch.no_grad():
        last.weight *= 1e-4
        last.bias.copy_(torch.from_numpy(np.array(small_photo(photo)).mean((0, 1)) / 255))
    model_file.from_model(made).save(path)
    return path


def small_photo(photo: Image.Image) -> Image.Image:
    return photo.crop((0, 0, 201, 99))


@pytest.fixture
def folder(model, photo, tmp_path, monkeypatch):
    """The working folder, with a model, a photo, and the photo compressed."""
    monkeypatch.chdir(tmp_path)
    os.link(model, "model.safetensors")
    small = small_photo(photo)
    small.save("photo.png")
    (tmp_path / "photo.agv").write_bytes(Codec.load(model).compress(small, quality=1.25, lossless=False))
    return tmp_path


MODEL = ("--model", "model.safetensors")


def agvae(capsys, *arguments) -> tuple[int, str, str]:
    try:
        status = cli.main([str(a) for a in arguments])
    except SystemExit as stop:  # argparse ends the program
        status = stop.code
    return status, *capsys.readouterr()


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "agvae", *map(str, arguments)]


def contents(folder) -> dict:
    """All paths below a folder, with the bytes of each file."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def metadata(photo: Image.Image) -> dict:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    exif[0x0112] = 6
    return {"exif": exif.tobytes(), "icc_profile": SRGB}


def test_compress_info_and_decompress(folder, capsys):
    status, out, err = agvae(capsys, "compress", "photo.png", "a.agv", *MODEL, "--quality", 1.25)
    assert (status, err) == (0, "")
    assert (folder / "a.agv").read_bytes() == (folder / "photo.agv").read_bytes()
    size = (folder / "a.agv").stat().st_size
    assert f"a.agv: {size} bytes" in out
    status, out, _ = agvae(capsys, "info", "a.agv", "--json")
    facts = json.loads(out)
    assert facts.items() >= {"width": 201, "height": 99, "quality": 1.25, "bytes": size, "grey": False}.items()
    assert facts["bpp"] == 8 * size / (201 * 99)
    assert agvae(capsys, "info", "a.agv")[0] == 0
    for suffix in ("png", "jpg", "webp"):
        assert agvae(capsys, "decompress", "a.agv", f"b.{suffix}", *MODEL)[0] == 0
        assert Image.open(f"b.{suffix}").size == (201, 99)


@pytest.mark.parametrize(
    ("option", "value"), [("--quality", 0.5), ("--bpp", 3), ("--bytes", 9000), ("--psnr", None), ("--ms-ssim", None)]
)
def test_every_target_reaches_the_codec(folder, capsys, monkeypatch, option, value):
    name = option.strip("-").replace("-", "_")
    value = value or 0.9
    asked = {}

    def compress(self, picture, *, progress, saved, effort, **target):
        asked.update(target)
        return (folder / "photo.agv").read_bytes()

    monkeypatch.setattr(Codec, "compress", compress)
    assert agvae(capsys, "compress", "photo.png", "a.agv", *MODEL, option, value)[0] == 0
    assert asked == {name: value}


def test_effort_reaches_the_codec(folder, capsys, monkeypatch):
    asked = []

    def compress(self, picture, *, effort, saved, **_):
        saved(800.0)
        asked.append(effort)
        return (folder / "photo.agv").read_bytes()

    monkeypatch.setattr(Codec, "compress", compress)
    assert agvae(capsys, "compress", "photo.png", "a.agv", *MODEL, "--effort", 2)[0] == 0
    assert asked == [2]
    assert agvae(capsys, "compress", "photo.png", "a.agv", "--lossless", "--effort", 1)[0] == 2
    assert agvae(capsys, "compress", "photo.png", "a.agv", *MODEL, "--effort", 4)[0] == 2


def test_without_a_target_quality_is_the_middle(folder, capsys):
    assert agvae(capsys, "compress", "photo.png", "a.agv", *MODEL)[0] == 0
    assert json.loads(agvae(capsys, "info", "a.agv", "--json")[1])["quality"] == 1


def test_a_rate_target_is_met(folder, capsys):
    size = (folder / "photo.agv").stat().st_size
    status, out, _ = agvae(capsys, "compress", "photo.png", "a.agv", *MODEL, "--bytes", size)
    assert status == 0
    found = (folder / "a.agv").stat().st_size
    assert 0.99 * size <= found <= size
    assert out.startswith(f"a.agv: {found} bytes, ")


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (("compress", "nowhere.png", "a.agv", *MODEL), 1, "nowhere.png: no such file"),
        (("compress", "model.safetensors", "a.agv", *MODEL), 1, "not an image"),
        (("compress", ".", "a.agv", *MODEL), 2, "a.agv: several inputs need a folder"),
        (("compress", "photo.png", "no/a.agv", *MODEL), 1, "the output folder no does not exist"),
        (("compress", "photo.png", "a.agv", "--model", "photo.png"), 1, "not a model file"),
        (("compress", "photo.png", "a.agv", "--model", "nothing"), 1, "neither a file nor a model"),
        (
            ("compress", "photo.png", "a.agv", *MODEL, "--quality", "7"),
            2,
            "--quality must be a level of model from 0 to 4, not 7\n",
        ),
        (("compress", "photo.png", "a.agv", *MODEL, "--quality", "85"), 2, "the PSNR of --quality 3.6"),
        (("compress", "photo.png", "a.agv", *MODEL, "--bytes", "50"), 1, "photo.png: 50 bytes is out of range"),
        (("compress", "photo.png", "a.agv", *MODEL, "--bpp", "1e-3"), 1, "photo.png: 0.001 bpp is out of range"),
        (("compress", "photo.png", "a.agv", *MODEL, "--psnr", "1"), 1, "psnr 1 is out of range"),
        (("compress", "photo.png", "a.agv", "--lossless", "--quality", "1"), 2, "not allowed with"),
        (("compress", "photo.png", "a.agv", "--quiet", "--verbose"), 2, "not allowed with"),
        (("compress", "photo.png", "a.agv", "--overwrite", "--no-clobber"), 2, "not allowed with"),
        (("compress", "photo.png", "a.agv", *MODEL, "--ms-ssim", "0.5"), 1, "201×99"),
        (("compress", "photo.png", "a.agv", *MODEL, "--max-pixels", "19898"), 1, "exceeds the limit of 19898 pixels"),
        (("compress", "photo.png", "a.agv", *MODEL, "--device", "tpu9"), 2, "tpu9"),
        (("compress", "photo.png", "a.agv", *MODEL, "--quality", "1", "--bpp", "1"), 2, "not allowed with"),
        (("compress", "photo.png"), 2, "OUT.agv"),
        (("compress", "photo.png", "a.agv", "--fast"), 2, "unrecognized arguments: --fast"),
        (("compress", "photo.png", "photo.agv", "a.agv", *MODEL), 2, "several inputs need a folder"),
        (("compress", "photo.png", "photo.png", *MODEL), 2, "overwritten"),
        (("compress", "photo.png", "other.JPG", *MODEL), 2, "not a picture"),
        (("compress", "photo.agv", "./photo.agv", *MODEL), 2, "overwritten"),
        (("compress", "-", ".", *MODEL), 2, "for standard input the output must be a file"),
        (("compress", "photo.png", "./photo.png", ".", *MODEL), 2, "would both become"),
        (("compress", "empty", "out/", *MODEL), 2, "empty: this folder has no file that the command can read"),
        (("decompress", "photo.png", "b.png", *MODEL), 1, "photo.png: this is not an AGV file"),
        (("decompress", "photo.agv", "b.xyz", *MODEL), 2, ".xyz"),
        (("decompress", "photo.agv", "b", *MODEL), 2, "a folder must be there or end in /"),
        (("decompress", "photo.agv", ".", "--format", "xyz", *MODEL), 2, ".xyz"),
        (("decompress", "photo.agv", "b.png", "--format", "jpg", *MODEL), 2, "--format"),
        (("decompress", "photo.agv", "photo.agv", *MODEL), 2, "overwritten"),
        (("decompress", "nowhere.agv", "b.png", *MODEL), 1, "nowhere.agv: No such file"),
        (("decompress", "photo.agv", "b.png", *MODEL, "--max-pixels", "9999"), 1, "photo.agv: a picture of 201×99"),
        (("decompress", "photo.agv", "b.png"), 1, "--model"),
        (("decompress", "photo.agv", "b.png", "--model", "photo.png"), 1, "not a model file"),
        (("decompress", "photo.agv", "no/b.png", *MODEL), 1, "the output folder no does not exist"),
        (("decompress", ".", "b.png", *MODEL), 2, "b.png: several inputs need a folder"),
        (("info", "photo.png"), 1, "photo.png: this is not an AGV file"),
        (("info", "nowhere.agv"), 1, "nowhere.agv: No such file"),
        (("export", "photo.png", "b.safetensors"), 1, "photo.png: not a training checkpoint of agvae"),
        (("shard", "nowhere", "out"), 1, "nowhere"),
        (("compare", "nowhere.png", "photo.agv", *MODEL), 1, "nowhere.png: no such file"),
        (("compare", "photo.png", "nowhere.agv", *MODEL), 1, "nowhere.agv: No such file"),
        (("compare", "photo.png", "photo.png", *MODEL), 1, "photo.png: this is not an AGV file"),
        (
            ("compare", "photo.png", "photo.agv", *MODEL, "--output", "no/a.png"),
            1,
            "the output folder no does not exist",
        ),
        (("compare", "photo.png"), 2, "required: IN.agv"),
        (("export", "photo.png", "b.bin"), 2, ".safetensors"),
        (("explode",), 2, "explode"),
    ],
)
def test_errors_are_one_line_and_leave_no_file(folder, capsys, arguments, status, word):
    (folder / "empty").mkdir()
    before = contents(folder)
    found, out, err = agvae(capsys, *arguments)
    assert found == status
    assert word in err
    assert "Traceback" not in err
    assert err.startswith("agvae")
    assert err.count("\n") == 1
    assert out == ""
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--quality", ["-1", "nan", "inf", "high"]),
        ("--bpp", ["-1", "0", "nan", "inf"]),
        ("--bytes", ["0", "-5", "1.5", "many"]),
        ("--psnr", ["nan", "-3", "inf"]),
        ("--ms-ssim", ["0", "1.5", "nan"]),
        ("--max-pixels", ["0", "-1", "x"]),
        ("--threads", ["0", "-1", "1.5", "all"]),
        ("--jobs", ["0", "-1", "1.5", "all"]),
    ],
)
def test_targets_that_mean_nothing_are_wrong_usage(capsys, option, values):
    for value in values:
        status, _, err = agvae(capsys, "compress", "in.png", "out.agv", option, value)
        assert status == 2
        assert f"{option}: {value!r} is not a" in err


# ---- what pictures carry ----------------------------------------------------------------------------------------


def test_alpha_comes_back_losslessly_and_grey_comes_back_grey(folder, capsys, photo):
    alpha = Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 201), dtype=np.uint8))
    for mode in ("RGBA", "LA"):
        image = photo.crop((0, 0, 201, 99)).convert(mode)
        image.putalpha(alpha)
        image.save("a.png")
        assert agvae(capsys, "compress", "a.png", "a.agv", *MODEL)[::2] == (0, "")
        assert agvae(capsys, "decompress", "a.agv", "b.png", *MODEL)[::2] == (0, "")
        back = Image.open("b.png")
        assert back.mode == mode
        assert np.array_equal(back.getchannel("A"), alpha)
        facts = json.loads(agvae(capsys, "info", "a.agv", "--json")[1])
        assert facts["alpha_bytes"] > 0
        assert facts["grey"] == (mode == "LA")


def test_metadata_comes_back_unless_stripped(folder, capsys, photo):
    photo.crop((0, 0, 80, 60)).save("a.jpg", **metadata(photo))
    assert agvae(capsys, "compress", "a.jpg", "a.agv", *MODEL)[::2] == (0, "")
    assert agvae(capsys, "compress", "a.jpg", "bare.agv", *MODEL, "--strip")[::2] == (0, "")
    facts = json.loads(agvae(capsys, "info", "a.agv", "--json")[1])
    assert facts["exif_bytes"] > 0
    assert facts["icc_bytes"] > 0
    for suffix in ("png", "jpg", "webp", "avif", "tiff"):
        assert agvae(capsys, "decompress", "a.agv", f"b.{suffix}", *MODEL)[::2] == (0, "")
        back = Image.open(f"b.{suffix}")
        assert back.size == (60, 80)
        assert back.getexif()[0x010F] == "maker"
        assert 0x0112 not in back.getexif()
        assert back.info["icc_profile"] == SRGB
    assert agvae(capsys, "decompress", "bare.agv", "b.png", *MODEL)[0] == 0
    bare = Image.open("b.png")
    assert bare.size == (60, 80)  # upright all the same
    assert not bare.info.keys() & {"exif", "icc_profile"}


def test_what_cannot_be_kept_is_said_in_a_line_each(folder, capsys, photo):
    frames = [photo.crop((k, 0, 80 + k, 60)).convert("P") for k in range(3)]
    frames[0].save("a.gif", save_all=True, append_images=frames[1:])
    status, _, err = agvae(capsys, "compress", "a.gif", "a.agv", *MODEL)
    assert (status, err) == (0, "agvae: note: a.gif: only one of its 3 frames is kept\n")
    clear = photo.crop((0, 0, 80, 60)).convert("RGBA")
    clear.putalpha(100)
    clear.save("a.png", **metadata(photo))
    assert agvae(capsys, "compress", "a.png", "a.agv", *MODEL)[::2] == (0, "")
    status, _, err = agvae(capsys, "decompress", "a.agv", "a.bmp", *MODEL)
    assert status == 0
    assert err.splitlines() == [
        "agvae: note: a.bmp: BMP has no alpha: the picture is composited on white",
        "agvae: note: a.bmp: BMP cannot keep EXIF data",
        "agvae: note: a.bmp: BMP cannot keep an ICC profile",
    ]


# ---- several inputs ---------------------------------------------------------------------------------------------


def test_one_bad_input_does_not_stop_the_others(folder, capsys, photo):
    for name in "ac":
        photo.crop((0, 0, 65, 40)).save(f"{name}.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:300])
    status, out, err = agvae(capsys, "compress", "a.png", "b.png", "gone.png", "c.png", "new/", *MODEL)
    assert status == 1
    assert [line.split(":")[0] for line in out.splitlines()] == ["new/a.agv", "new/c.agv"]
    first, second = err.splitlines()
    assert first.startswith("agvae: b.png: ")
    assert second == "agvae: gone.png: no such file"
    assert sorted(os.listdir("new")) == ["a.agv", "c.agv"]
    (folder / "new" / "b.agv").write_bytes((folder / "new" / "a.agv").read_bytes()[:-1])
    arguments = [f"new/{name}.agv" for name in "abc"]
    status, out, err = agvae(capsys, "decompress", *arguments, "--format", "JPG", "back/", *MODEL)
    assert status == 1
    assert err.count("\n") == 1
    assert err.startswith("agvae: new/b.agv: ")
    assert sorted(os.listdir("back")) == ["a.jpg", "c.jpg"]


def test_options_may_stand_anywhere(folder, capsys, photo):
    photo.crop((0, 0, 65, 40)).save("other.png")
    os.mkdir("out")
    for arguments in (
        (*MODEL, "photo.png", "other.png", "out"),
        ("photo.png", *MODEL, "other.png", "out"),
        ("photo.png", "other.png", *MODEL, "out"),
        ("photo.png", "other.png", "out", *MODEL),
    ):
        assert agvae(capsys, "compress", *arguments)[0] == 0
        assert sorted(os.listdir("out")) == ["other.agv", "photo.agv"]
        for name in os.listdir("out"):
            os.unlink(f"out/{name}")


def test_a_single_input_may_go_into_a_folder(folder, capsys):
    assert agvae(capsys, "compress", "photo.png", "new/", *MODEL)[0] == 0
    assert agvae(capsys, "decompress", "new/photo.agv", "new", *MODEL)[0] == 0
    assert sorted(os.listdir("new")) == ["photo.agv", "photo.png"]


def test_a_bad_model_or_setting_is_said_once(folder, capsys):
    for option in (("--model", "nothing"), (*MODEL, "--quality", "9"), (*MODEL, "--device", "tpu9")):
        for jobs in (1, 2):
            os.makedirs("in", exist_ok=True)
            for name in "abc":
                (folder / "in" / f"{name}.png").write_bytes((folder / "photo.png").read_bytes())
            _, _, err = agvae(capsys, "compress", "in", "out", *option, "--jobs", jobs)
            assert err.count("\n") == 1
            assert option[-1] in err


def test_too_little_memory_is_an_error_of_one_line(folder, capsys, monkeypatch):
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")):

        def compress(*_, error=error, **__):
            raise error

        monkeypatch.setattr(Codec, "compress", compress)
        status, _, err = agvae(capsys, "compress", "photo.png", "a.agv", *MODEL)
        assert (status, err) == (1, "agvae: photo.png: not enough memory\n")


# ---- standard input and output ----------------------------------------------------------------------------------


def test_pictures_go_through_pipes(folder):
    picture = (folder / "photo.png").read_bytes()
    done = subprocess.run(
        command("compress", "-", "-", *MODEL, "--quality", 1.25), input=picture, capture_output=True, check=True
    )
    assert done.stdout == (folder / "photo.agv").read_bytes()
    assert done.stderr.decode().startswith(f"standard output: {len(done.stdout)} bytes")
    done = subprocess.run(
        command("decompress", "-", "-", "--format", "webp", *MODEL), input=done.stdout, capture_output=True, check=True
    )
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert (image.format, image.size) == ("WEBP", (201, 99))
    assert done.stderr.decode() == "standard output: 201×99\n"


def test_info_reads_standard_input(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((folder / "photo.agv").read_bytes())))
    assert json.loads(agvae(capsys, "info", "-", "--json")[1])["width"] == 201


def test_standard_output_is_png_unless_asked_for_another_format(folder, capsysbinary):
    assert cli.main(["decompress", "photo.agv", "-", *MODEL]) == 0
    out, err = capsysbinary.readouterr()
    assert Image.open(io.BytesIO(out)).format == "PNG"
    assert err.decode() == "standard output: 201×99\n"


def test_a_pipe_that_nobody_reads_is_an_error_of_one_line(folder):
    reader, writer = os.pipe()
    os.close(reader)
    arguments = command("compress", "photo.png", "-", *MODEL)
    done = subprocess.run(arguments, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "agvae: standard output: Broken pipe\n")


def test_lines_of_text_that_nobody_reads_any_more_are_no_error(folder):
    reader, writer = os.pipe()
    os.close(reader)
    arguments = command("info", "photo.agv", "photo.agv")
    done = subprocess.run(arguments, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has the device")
def test_a_full_device_is_an_error_of_one_line(folder):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command("info", "photo.agv"), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "agvae: standard output: No space left on device\n")


def test_closed_standard_streams_are_an_error_of_one_line(folder, capsys, monkeypatch):
    for arguments, stream, words in (
        (("compress", "-", "a.agv", *MODEL), "stdin", "standard input: it is closed"),
        (("decompress", "-", "a.png", *MODEL), "stdin", "standard input: it is closed"),
        (("info", "-"), "stdin", "standard input: it is closed"),
        (("compress", "photo.png", "-", *MODEL), "stdout", "standard output is closed"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(sys, stream, None)
            status, _, err = agvae(capsys, *arguments)
        assert status == 1
        assert err.endswith(f"{words}\n")
        assert err.count("\n") == 1


# ---- whole or not at all ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["compress", "fsync", "replace"])
def test_ctrl_c_leaves_everything_as_it_was(folder, capsys, monkeypatch, moment):
    (folder / "a.agv").write_text("what was there")
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(*((Codec, "compress") if moment == "compress" else (os, moment)), interrupt)
    status, out, err = agvae(capsys, "compress", "photo.png", "a.agv", *MODEL)
    assert (status, out, err) == (130, "", "agvae: interrupted\n")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_full_disk_leaves_everything_as_it_was(folder):
    (folder / "b.png").write_text("what was there")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    done = subprocess.run(
        command("decompress", "photo.agv", "b.png", *MODEL),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "agvae: b.png: File too large\n")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*out\.bin'"):
        files.write_atomically(tmp_path / "out.bin", b"data")
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match=r"no/out\.bin"):
        files.write_atomically(tmp_path / "no" / "out.bin", b"data")


def test_a_new_file_has_the_usual_permissions_and_a_replaced_one_its_own(tmp_path):
    usual = tmp_path / "usual"
    usual.write_bytes(b"")
    files.write_atomically(tmp_path / "new", b"data")
    assert (tmp_path / "new").stat().st_mode == usual.stat().st_mode
    (tmp_path / "secret").write_bytes(b"")
    (tmp_path / "secret").chmod(0o600)
    files.write_atomically(tmp_path / "secret", b"data")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    long = tmp_path / ("x" * 255)
    files.write_atomically(long, b"data")
    assert long.read_bytes() == b"data"


def test_links_are_followed_and_devices_stay_what_they_are(tmp_path):
    (tmp_path / "there").write_bytes(b"old")
    (tmp_path / "link").symlink_to("there")
    files.write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there").read_bytes() == b"new"
    files.write_atomically("/dev/null", b"data")
    assert not os.path.isfile("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.write_atomically(tmp_path / "pipe", b"data")
    assert os.read(reader, 10) == b"data"
    os.close(reader)


# ---- in use -----------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_work_of_over_a_second_shows_a_bar_on_a_terminal_alone(folder, capsys, monkeypatch, terminal):
    data = (folder / "photo.agv").read_bytes()

    def compress(self, picture, *, progress, saved, effort, **target):
        for step in range(1, 5):
            time.sleep(0.35)
            progress(step / 4)
        return data

    monkeypatch.setattr(Codec, "compress", compress)
    stderr = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    assert agvae(capsys, "compress", "photo.png", "a.agv", *MODEL)[0] == 0
    assert ("photo.png:  75%|" in stderr.getvalue()) == terminal
    assert terminal or stderr.getvalue() == ""


def test_work_of_a_moment_shows_no_bar(folder, capsys, monkeypatch):
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(Codec, "compress", lambda *_, **__: (folder / "photo.agv").read_bytes())
    assert agvae(capsys, "compress", "photo.png", "a.agv", *MODEL)[0] == 0
    assert "%" not in stderr.getvalue()


def test_help_and_version_need_nothing_heavy(capsys):
    code = "import sys, agvae.cli; agvae.cli.parser.make_parser().format_help(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "PIL", "tqdm"} & set(done.stdout.split())
    for arguments in (
        (),
        ("--help",),
        ("compress", "--help"),
        ("decompress", "--help"),
        ("info", "--help"),
        ("compare", "--help"),
    ):
        status, out, _ = agvae(capsys, *arguments)
        assert status == 0
        assert "usage: agvae" in out
    assert "photo.png photo.agv --bpp 0.25" in agvae(capsys, "compress", "--help")[1]
    assert agvae(capsys, "--version")[1].startswith("agvae ")


def test_work_needs_no_training_or_reporting_package(folder):
    code = (
        "import sys; from agvae.cli import main\n"
        "assert main(['compress', 'photo.png', 'a.agv', '--model', 'model.safetensors', '--bytes', '600']) == 0\n"
        "assert main(['compress', 'photo.png', 'a.agv', '--model', 'model.safetensors', '--psnr', '6']) in (0, 1)\n"
        "assert main(['decompress', 'a.agv', 'a.png', '--model', 'model.safetensors']) == 0\n"
        "assert main(['info', 'a.agv']) == main(['models']) == 0\n"
        "print(*sorted(sys.modules.keys() & {*sys.argv[1:]}))"
    )
    done = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_the_command_and_the_library_have_the_same_limit_of_pixels():
    from agvae.images import MAX_PIXELS

    for name in ("compress", "decompress"):
        assert cli.parser.make_parser().parse_args([name, "a", "b"]).max_pixels == MAX_PIXELS


def test_info_says_what_is_inside(folder, capsys):
    header = bitstream.unpack((folder / "photo.agv").read_bytes())[0]
    size = (folder / "photo.agv").stat().st_size
    assert agvae(capsys, "info", "photo.agv")[1].splitlines() == [
        "file          photo.agv",
        "size          201×99",
        "format        version 1, learned",
        f"model         {header.fingerprint.hex()}, which is not included in agvae",
        "quality       1.25",
        f"bytes         {size}, of these {len(header.to_bytes()) + 2} before the body",
        f"rate          {8 * size / (201 * 99):.4f} bpp",
    ]


def test_info_says_which_lossless_body_a_file_has_and_what_goes_with_it(folder, capsys):
    picture = Picture(np.full((9, 30, 3), 255, np.uint8), True, xmp=b"<x/>", text={"Title": "words"}, bilevel=True)
    (folder / "a.agv").write_bytes(compress_lossless(picture))
    lines = agvae(capsys, "info", "a.agv")[1].splitlines()
    assert lines[1:3] == ["size          30×9, greyscale", "format        version 2, lossless, as PNG"]
    assert not [line for line in lines if line.startswith(("model", "quality", "EXIF", "alpha"))]
    assert [line.split()[0] for line in lines[-2:]] == ["XMP", "text"]
    facts = json.loads(agvae(capsys, "info", "a.agv", "--json")[1])
    assert (facts["body"], facts["version"], facts["model"], facts["quality"]) == ("png", 2, None, None)


def test_info_names_a_shipped_model_and_says_that_a_quality_is_extrapolated(folder, capsys):
    card = shipped.cards()[0]
    for quality, words in ((2560, "2.5"), (5500, "5.371 (extrapolated past level 5)")):
        header = Header(bytes.fromhex(card.fingerprint), 64, 64, quality, extended=quality > 5120)
        (folder / "a.agv").write_bytes(bitstream.pack(header, b"stream"))
        lines = agvae(capsys, "info", "a.agv")[1].splitlines()
        assert f"model         {card.name} ({card.fingerprint})" in lines
        assert f"quality       {words}" in lines


def test_info_takes_many_files_and_one_bad_does_not_stop_the_others(folder, capsys):
    status, out, err = agvae(capsys, "info", "photo.agv", "photo.png", "--json", "photo.agv")
    assert (status, err) == (1, "agvae: photo.png: this is not an AGV file\n")
    assert [json.loads(line)["file"] for line in out.splitlines()] == ["photo.agv"] * 2
    assert agvae(capsys, "info", "photo.agv", "photo.agv")[1].count("file          photo.agv") == 2
