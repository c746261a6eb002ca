"""The `agvae` command on folders and many files, `agvae compare`, and the lossless files of `agvae compress`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import MODEL, agvae, command, contents, folder, model

from agvae.codec import bitstream
from agvae.metrics import ms_ssim, psnr

__all__ = ["folder", "model"]


@pytest.fixture
def photos(folder, photo):
    """A folder with photos at several depths, and files that are no photos."""
    for place in ("photos/a.png", "photos/deep/er/a.jpg", "photos/deep/b.webp"):
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.crop((0, 0, 70, 40)).save(path)
    (folder / "photos" / "notes.txt").write_text("not a photo")
    (folder / "photos" / ".hidden.png").write_bytes((folder / "photo.png").read_bytes())
    return folder / "photos"


def files_in(place: str) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in Path(place).rglob("*") if path.is_file())


# ---- folders and names -----------------------------------------------------------------------------------------


def test_a_folder_is_compressed_at_any_depth_and_comes_back(photos, capsys):
    status, out, err = agvae(capsys, "compress", "photos", "small", *MODEL)
    assert (status, err) == (0, "")
    assert files_in("small") == ["a.agv", "deep/b.agv", "deep/er/a.agv"]
    assert [line.split(":")[0] for line in out.splitlines()] == [
        "small/a.agv",
        "small/deep/b.agv",
        "small/deep/er/a.agv",
    ]
    assert agvae(capsys, "decompress", "small/", "back/", "--format", "png", *MODEL)[::2] == (0, "")
    assert files_in("back") == ["a.png", "deep/b.png", "deep/er/a.png"]


def test_folders_and_files_go_into_one_folder(photos, capsys):
    assert agvae(capsys, "compress", "photo.png", "photos", "out/", *MODEL)[0] == 0
    assert files_in("out") == ["a.agv", "deep/b.agv", "deep/er/a.agv", "photo.agv"]


def test_an_output_folder_inside_the_input_is_not_an_input(photos, capsys):
    for _ in range(2):
        assert agvae(capsys, "compress", "photos", "photos/small", *MODEL)[0] == 0
        assert agvae(capsys, "decompress", "photos/small", "photos/small/back", *MODEL)[0] == 0
    assert files_in("photos/small") == [
        *("a.agv", "back/a.png", "back/deep/b.png", "back/deep/er/a.png", "deep/b.agv", "deep/er/a.agv")
    ]


def test_files_that_differ_in_their_suffix_alone_keep_their_whole_names(folder, photo, capsys):
    for name in ("a.png", "a.webp", "b.png"):
        photo.crop((0, 0, 70, 40)).save(name)
    assert agvae(capsys, "compress", "a.png", "a.webp", "b.png", "out/", *MODEL)[::2] == (0, "")
    assert files_in("out") == ["a.png.agv", "a.webp.agv", "b.agv"]


def test_a_bad_file_in_a_folder_does_not_stop_the_others(photos, capsys):
    (photos / "deep" / "b.webp").write_bytes(b"RIFF")
    for jobs in (1, 2):
        status, out, err = agvae(capsys, "compress", "photos", f"out{jobs}", *MODEL, "--jobs", jobs)
        assert status == 1
        assert err.startswith("agvae: photos/deep/b.webp: ")
        assert err.count("\n") == 1
        assert out.count("\n") == 2
        assert files_in(f"out{jobs}") == ["a.agv", "deep/er/a.agv"]


# ---- how it is done --------------------------------------------------------------------------------------------


def test_jobs_at_once_make_the_same_files(photos, capsys):
    for jobs in (1, 2):
        options = (*MODEL, "--quality", 1.5, "--jobs", jobs)
        assert agvae(capsys, "compress", "photos", f"out{jobs}", *options)[::2] == (0, "")
    one, two = ({p.relative_to(d): p.read_bytes() for p in Path(d).rglob("*.agv")} for d in ("out1", "out2"))
    assert len(one) == 3
    assert one == two


def test_files_that_are_there_are_replaced_unless_they_are_to_be_kept(folder, capsys):
    for option in ((), ("--overwrite",)):
        (folder / "a.agv").write_text("what was there")
        assert agvae(capsys, "compress", "photo.png", "a.agv", *MODEL, *option)[0] == 0
        assert (folder / "a.agv").read_bytes().startswith(b"AGV")
    for name, arguments in (("a.agv", ("compress", "photo.png")), ("a.png", ("decompress", "photo.agv"))):
        (folder / name).write_text("what was there")
        status, out, err = agvae(capsys, *arguments, name, *MODEL, "--no-clobber")
        assert (status, out, err) == (0, "", f"agvae: note: {name}: already exists and is kept\n")
        assert agvae(capsys, *arguments, name, *MODEL, "--no-clobber", "--quiet") == (0, "", "")
        assert (folder / name).read_text() == "what was there"


def test_what_is_missing_of_a_folder_is_made_with_no_clobber(photos, capsys):
    agvae(capsys, "compress", "photos", "out", *MODEL)
    os.unlink("out/deep/b.agv")
    before = (Path("out/a.agv").stat().st_mtime_ns, Path("out/deep/er/a.agv").stat().st_mtime_ns)
    status, out, err = agvae(capsys, "compress", "photos", "out", *MODEL, "--no-clobber")
    assert status == 0
    assert out.startswith("out/deep/b.agv: ")
    assert err.count("is kept") == 2
    assert (Path("out/a.agv").stat().st_mtime_ns, Path("out/deep/er/a.agv").stat().st_mtime_ns) == before


def test_quiet_prints_errors_alone_and_verbose_the_model_and_the_time(folder, capsys, photo):
    frames = [photo.crop((k, 0, 80 + k, 60)).convert("P") for k in range(2)]
    frames[0].save("a.gif", save_all=True, append_images=frames[1:])
    assert agvae(capsys, "compress", "a.gif", "a.agv", *MODEL, "--quiet") == (0, "", "")
    assert agvae(capsys, "decompress", "a.agv", "a.bmp", *MODEL, "--quiet") == (0, "", "")
    status, out, err = agvae(capsys, "compress", "nowhere.png", "a.agv", *MODEL, "--quiet")
    assert (status, out, err) == (1, "", "agvae: nowhere.png: no such file\n")
    seconds = r"\d+\.\d\d s\n"
    _, out, _ = agvae(capsys, "compress", "photo.png", "b.agv", *MODEL, "--verbose")
    assert re.search(rf", model model\.safetensors, {seconds}$", out)
    _, out, _ = agvae(capsys, "decompress", "b.agv", "b.png", *MODEL, "--verbose")
    assert re.search(rf"^b\.png: 201×99, model model, {seconds}$", out)
    _, out, _ = agvae(capsys, "compress", "photo.png", "c.agv", "--lossless", "--verbose")
    assert re.search(rf", lossless, no model, {seconds}$", out)
    _, out, _ = agvae(capsys, "decompress", "c.agv", "c.png", "--verbose")
    assert re.search(rf"^c\.png: 201×99, lossless, {seconds}$", out)


# ---- lossless, and what was reached ----------------------------------------------------------------------------


def test_lossless_files_need_no_model_and_keep_every_pixel(folder, capsys):
    code = (
        "import sys; from agvae.cli import main\n"
        "assert main(['compress', 'photo.png', 'a.agv', '--lossless']) == 0\n"
        "assert main(['decompress', 'a.agv', 'a.png']) == main(['compare', 'photo.png', 'a.agv']) == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ", lossless\n" in done.stdout
    assert "PSNR     exact\n" in done.stdout
    assert np.array_equal(np.array(Image.open("a.png")), np.array(Image.open("photo.png")))


@pytest.mark.parametrize("mode", ["1", "I;16", "L", "LA"])
def test_lossless_pictures_come_back_in_their_own_mode(folder, capsys, mode):
    values = np.arange(30 * 20, dtype=np.uint16).reshape(20, 30) * 109
    image = Image.fromarray(values) if mode == "I;16" else Image.fromarray((values >> 8).astype(np.uint8)).convert(mode)
    image.save("a.png")
    assert agvae(capsys, "compress", "a.png", "a.agv", "--lossless")[::2] == (0, "")
    assert agvae(capsys, "decompress", "a.agv", "b.png")[::2] == (0, "")
    back = Image.open("b.png")
    assert back.mode == mode
    assert back.tobytes() == image.tobytes()


def test_16_bit_colour_is_kept_as_8_bits_and_that_is_said(folder, capsys):
    from test_images import deep_png

    values = np.random.default_rng(0).integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    (folder / "a.png").write_bytes(deep_png(values).read())
    status, _, err = agvae(capsys, "compress", "a.png", "a.agv", "--lossless")
    assert (status, err) == (0, "agvae: note: a.png: its 16-bit values are kept as 8 bits\n")


def test_a_metric_or_rate_that_only_a_lossless_file_has_is_met(folder, capsys):
    for target, words in ((("--psnr", 60), ", lossless, exact\n"), (("--bpp", 30), ", lossless\n")):
        status, out, err = agvae(capsys, "compress", "photo.png", "a.agv", *MODEL, *target)
        assert (status, err) == (0, "")
        assert out.endswith(words)
        assert agvae(capsys, "info", "a.agv")[1].count("lossless, as WebP") == 1


def test_the_metric_that_was_reached_is_printed(folder, capsys):
    target = psnr(Image.open("photo.png"), decoded("photo.agv", folder, capsys)) - 0.01
    status, out, _ = agvae(capsys, "compress", "photo.png", "a.agv", *MODEL, "--psnr", target)
    assert status == 0
    reached = psnr(Image.open("photo.png"), decoded("a.agv", folder, capsys))
    assert out.endswith(f", PSNR {reached:.2f} dB\n")
    assert target <= reached <= target + 0.05


def decoded(file: str, folder: Path, capsys) -> Image.Image:
    assert agvae(capsys, "decompress", file, "decoded.png", *MODEL)[0] == 0
    return Image.open(folder / "decoded.png")


def test_a_quality_past_the_last_level_is_said_to_be_extrapolated(folder, capsys):
    status, out, _ = agvae(capsys, "compress", "photo.png", "a.agv", *MODEL, "--quality", 3)
    assert status == 0
    assert out.endswith(", quality 3 (extrapolated past level 2)\n")
    assert bitstream.unpack((folder / "a.agv").read_bytes()).header.version == 2
    assert decoded("a.agv", folder, capsys).size == (201, 99)


def test_xmp_and_text_come_back_unless_stripped(folder, capsys, photo):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", "steps: 20")
    info.add_itxt("XML:com.adobe.xmp", "<x/>")
    photo.crop((0, 0, 80, 60)).save("a.png", pnginfo=info)
    for option in ((), ("--strip",), ("--lossless",)):
        model = MODEL * (option != ("--lossless",))
        assert agvae(capsys, "compress", "a.png", "a.agv", *model, *option)[::2] == (0, "")
        facts = json.loads(agvae(capsys, "info", "a.agv", "--json")[1])
        assert agvae(capsys, "decompress", "a.agv", "b.png", *MODEL)[::2] == (0, "")
        kept = option != ("--strip",)
        assert (facts["xmp_bytes"] > 0, facts["text_bytes"] > 0) == (kept, kept)
        assert Image.open("b.png").text == ({"parameters": "steps: 20", "XML:com.adobe.xmp": "<x/>"} if kept else {})


# ---- compare ---------------------------------------------------------------------------------------------------


def test_compare_prints_rate_and_metrics_and_writes_both_pictures(folder, capsys, photo):
    photo.crop((0, 0, 201, 170)).save("b.png")
    assert agvae(capsys, "compress", "b.png", "b.agv", *MODEL)[0] == 0
    assert agvae(capsys, "decompress", "b.agv", "back.png", *MODEL)[0] == 0
    original, back = Image.open("b.png"), Image.open("back.png")
    size = (folder / "b.agv").stat().st_size
    exact = psnr(original, back) == float("inf")
    status, out, err = agvae(capsys, "compare", "b.png", "b.agv", *MODEL, "--output", "both.png")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"bpp      {8 * size / (201 * 170):.4f} ({size} bytes)",
        f"PSNR     {'exact' if exact else f'{psnr(original, back):.2f} dB'}",
        f"MS-SSIM  {ms_ssim(original, back):.4f}",
        "both.png: the original, and the decoded picture to its right",
    ]
    both = Image.open("both.png")
    assert both.size == (402, 170)
    assert both.crop((0, 0, 201, 170)).tobytes() == original.tobytes()
    assert both.crop((201, 0, 402, 170)).tobytes() == back.tobytes()


def test_compare_refuses_pictures_of_another_size_in_one_line(folder, capsys, photo):
    photo.crop((0, 0, 200, 99)).save("b.png")
    status, out, err = agvae(capsys, "compare", "b.png", "photo.agv", *MODEL)
    assert (status, out) == (1, "")
    assert err == "agvae: photo.agv: holds a picture of 201×99, but the original is 200×99; give its own original\n"
    out = agvae(capsys, "compare", "photo.png", "photo.agv", *MODEL)[1]
    assert out.splitlines()[2] == "MS-SSIM  not defined for a picture this small"


# ---- messages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", "photo.png", "x.safetensors"), "photo.png: not a training checkpoint of agvae; train.py writes"),
        (("export", "nowhere.ckpt", "x.safetensors"), "nowhere.ckpt: no such file"),
        (("shard", "nowhere", "out"), "nowhere: must be a folder"),
        (("shard", "photo.png", "out"), "photo.png: must be a folder"),
        (("shard", "empty", "out"), "empty has no image that can be read"),
    ],
)
def test_commands_around_training_say_what_is_wrong_in_their_own_words(folder, capsys, arguments, words):
    (folder / "empty").mkdir()
    before = contents(folder)
    status, out, err = agvae(capsys, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith(f"agvae: {words}")
    assert err.count("\n") == 1
    assert not re.search(r"Error|Errno|Traceback", err)
    assert contents(folder) == before


def test_a_reader_that_leaves_early_is_no_error(folder):
    """An example is `agvae info *.agv | head -1`."""
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$@" | head -1', "bash", *command("info", *["photo.agv"] * 50)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "file          photo.agv\n", "")
