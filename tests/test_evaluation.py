import csv
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import programs
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from pytorch_msssim import ms_ssim
from skimage.metrics import peak_signal_noise_ratio
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from agvae import engine, evaluation
from agvae.errors import ConfigError, DataError
from agvae.evaluation import CLASSICAL_CODECS, METRICS, Curve, ModelCodec, bd_rate, bd_rates, evaluate_codecs
from agvae.evaluation.external import BPGCodec, VTMCodec, VVenCCodec
from agvae.evaluation.runner import COLUMNS
from agvae.reporting.figures import rd_figure

ROOT = Path(__file__).parents[1]
PUBLISHED = {curve.name: curve for curve in evaluation.published_curves()}


class FakeCodec:
    """JPEG with the methods of agvae.Codec. It counts the calls of `analyze`."""

    name = "Fake AG-VAE"
    levels = 3
    last_quality = 4
    device = torch.device("cpu")
    info: ClassVar = {"run": "0123abcd"}
    config: ClassVar = {"gain": {"name": "hcvr", "levels": 3}}
    fingerprint = b"fake"

    def __init__(self):
        self.analyses = 0

    def analyze(self, image):
        self.analyses += 1
        return image

    def compress(self, latent, *, quality, effort=0, lossless=False):
        assert lossless is False
        return CLASSICAL_CODECS["jpeg"].encode(latent, round(20 + 30 * quality))

    def decompress(self, blob):
        return CLASSICAL_CODECS["jpeg"].decode(blob)

    def estimate(self, latent, *, quality):
        return 8.0 * len(self.compress(latent, quality=quality)) - 80


def curve(name, bpp, psnr, **more):
    return Curve(name, "", {"bpp": bpp, "psnr-rgb": psnr, **more})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with two crops of a photo, 176×192 and 70×90 pixels, and a file that is no image."""
    from skimage import data

    folder = tmp_path_factory.mktemp("pictures")
    photo = Image.fromarray(data.astronaut())
    photo.crop((100, 0, 276, 192)).save(folder / "large.png", icc_profile=b"profile" * 1000)
    photo.crop((100, 100, 170, 190)).save(folder / "small.png")
    (folder / "broken.png").write_bytes(b"\x89PNG nothing of the sort")
    return folder


@pytest.fixture
def large(pictures):
    return Image.open(pictures / "large.png").convert("RGB")


@pytest.fixture
def configure(tmp_path, pictures):
    """Composes conf/evaluate.yaml, with results in tmp_path/run."""

    def compose_config(*overrides):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            where = [f"run_dir={tmp_path / 'run'}", "data=folder", f"data.root={pictures}"]
            return compose("evaluate", [*where, "checkpoint=fake.ckpt", *overrides])

    return compose_config


@pytest.fixture
def fake_model(monkeypatch):
    """Makes every checkpoint a FakeCodec."""
    monkeypatch.setattr("agvae.codec.open_codec", lambda name, device: FakeCodec())


@pytest.mark.parametrize(
    ("anchor", "test", "percent"),
    [("bpg444", "vtm", -18.0), ("vtm", "mbt2018-mse", 11.0), ("vtm", "qarv-mse", -5.9)],
)
def test_bd_rate_gives_the_known_figures(anchor, test, percent):
    assert bd_rate(PUBLISHED[anchor], PUBLISHED[test]).percent == pytest.approx(percent, abs=0.2)


def test_bd_rate_of_equal_quality_at_twice_the_rate_is_100_percent():
    anchor = PUBLISHED["jpeg2000"]
    twice = replace(anchor, results={**anchor.results, "bpp": [2 * rate for rate in anchor.results["bpp"]]})
    for metric in METRICS:
        assert bd_rate(anchor, twice, metric).percent == pytest.approx(100)
        assert bd_rate(twice, anchor, metric).percent == pytest.approx(-50)


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        (curve("falls", [0.1, 0.2, 0.3], [30, 29, 31]), "falls does not rise: 0.1000 bpp gives 30.000 dB"),
        (curve("apart", [0.1, 0.2], [50, 52]), "apart covers 50.00 to 52.00 dB, where the anchor has nothing"),
        (curve("single", [0.1, 0.2], [30, math.nan]), "single has one point"),
        (curve("endless", [0.1, 0.2], [30, math.inf]), "endless has one point"),
    ],
)
def test_curves_without_a_bd_rate_say_why(test, reason):
    good = curve("good", [0.1, 0.2, 0.4], [28, 30, 32])
    for rate in (bd_rate(good, test), bd_rate(test, good)):
        assert rate.percent is None
    assert bd_rate(good, test).reason.startswith(reason)
    assert bd_rate(good, good, "ms-ssim-rgb").reason == "the anchor has no ms-ssim-rgb"


def test_two_qualities_with_one_result_count_once():
    good = curve("good", [0.1, 0.2, 0.4], [28, 30, 32])
    again = curve("again", [0.1, 0.1, 0.2, 0.4], [28, 28, 30, 32])
    assert bd_rate(good, again).percent == pytest.approx(0)


def test_every_published_curve_names_its_source_and_rises():
    for published in PUBLISHED.values():
        assert published.source
        assert published.kind in ("codec", "learned fixed", "learned variable")
        assert bd_rate(PUBLISHED["vtm"], published).reason is None
    for metric in METRICS:
        assert all(metric in behind.results for behind in evaluation.background_curves(metric))


def test_psnr_is_that_of_scikit_image(large):
    image = np.asarray(large)
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 9, image.shape), 0, 255).astype(np.uint8)
    expected = peak_signal_noise_ratio(image, noisy, data_range=255)
    assert evaluation.psnr(image, noisy) == pytest.approx(expected)
    assert evaluation.psnr(image, image) == math.inf


def test_ms_ssim_is_that_of_other_implementations(large):
    image = np.asarray(large)
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 25, image.shape), 0, 255).astype(np.uint8)
    x, y = (torch.tensor(array).permute(2, 0, 1)[None].double() for array in (image, noisy))
    value = evaluation.ms_ssim(image, noisy)
    assert value == pytest.approx(ms_ssim(x, y, data_range=255).item(), abs=1e-6)
    theirs = multiscale_structural_similarity_index_measure(y, x, data_range=255.0)
    assert value == pytest.approx(theirs.item(), abs=1e-3)  # torchmetrics pads images
    assert evaluation.ms_ssim(image, image) == pytest.approx(1)


@pytest.mark.parametrize(("side", "defined"), [(160, False), (161, True)])
def test_ms_ssim_needs_a_side_over_160_pixels(side, defined):
    image = np.random.default_rng(0).integers(0, 256, (side, 200, 3), dtype=np.uint8)
    assert math.isnan(evaluation.ms_ssim(image, image)) is not defined


@pytest.mark.parametrize("name", CLASSICAL_CODECS)
def test_classical_codecs_give_real_files_that_grow_with_quality(name, large):
    codec = CLASSICAL_CODECS[name]
    files = [codec.encode(large, quality) for quality in codec.qualities]
    assert [len(file) for file in files] == sorted({len(file) for file in files})
    decoded = [codec.decode(file) for file in files]
    assert {(image.size, image.mode) for image in decoded} == {(large.size, "RGB")}
    quality = [evaluation.psnr(large, image) for image in decoded]
    assert quality == sorted(quality)


@pytest.mark.parametrize("name", CLASSICAL_CODECS)
@pytest.mark.parametrize("size", [(1, 1), (17, 40), (65, 3)])
def test_classical_codecs_take_odd_sizes(name, size, photo):
    codec = CLASSICAL_CODECS[name]
    assert codec.decode(codec.encode(photo.resize(size), codec.qualities[-1])).size == size


def test_curves_survive_json_with_null_for_what_does_not_exist(tmp_path):
    values = {"ms-ssim-rgb": [math.nan, 0.9], "encoding_time": [0.1, 0.2], "decoding_time": [0.1, 0.2]}
    written = curve("a name", [0.1, 0.2], [30.5, math.inf], **values)
    evaluation.write_curve(written, tmp_path / "curve.json")
    raw = json.loads((tmp_path / "curve.json").read_text())
    assert set(raw) == {"name", "description", "results"}
    assert raw["results"]["ms-ssim-rgb"] == [None, 0.9]
    assert raw["results"]["psnr-rgb"] == [30.5, None]
    read = evaluation.read_curve(tmp_path / "curve.json")
    np.testing.assert_equal(read.results, {**written.results, "psnr-rgb": [30.5, math.nan]})


def test_a_model_is_evaluated_at_all_levels_and_half_way():
    assert ModelCodec(FakeCodec()).qualities == [0, 0.5, 1, 1.5, 2]
    assert ModelCodec(FakeCodec(), [2, 0.25, 2]).qualities == [0.25, 2]
    with pytest.raises(ConfigError, match=r"Fake AG-VAE: quality must be from 0 to 4 for this model, not 4\.5"):
        ModelCodec(FakeCodec(), [0, 4.5])


def test_the_runner_measures_whole_files_of_pixels_alone(pictures, large):
    fake = FakeCodec()
    run = evaluate_codecs([ModelCodec(fake), CLASSICAL_CODECS["webp"]], [pictures / "large.png"])
    assert fake.analyses == 2  # the first call is not timed
    assert [row["codec"] for row in run.rows] == ["Fake AG-VAE"] * 5 + ["webp"] * 11
    row = run.rows[2]
    assert row["quality"] == 1
    assert row["bytes"] == len(CLASSICAL_CODECS["jpeg"].encode(large, 50))
    assert row["bpp"] == 8 * row["bytes"] / (176 * 192)
    assert row["estimated_bpp"] == pytest.approx(row["bpp"] - 80 / (176 * 192))
    assert row["psnr-rgb"] == evaluation.psnr(large, fake.decompress(fake.compress(large, quality=1)))
    assert row["encoding_time"] > 0 < row["decoding_time"]


def test_images_that_cannot_be_read_are_named_and_left_out(pictures, caplog):
    run = evaluate_codecs([CLASSICAL_CODECS["jpeg"]], sorted(pictures.iterdir()))
    assert [Path(path).name for path in run.images] == ["large.png", "small.png"]
    assert list(run.skipped) == [str(pictures / "broken.png")]
    assert f"left out {pictures / 'broken.png'}" in caplog.text
    assert "1 images were left out" in caplog.text


def test_an_image_that_memory_does_not_hold_is_left_out(pictures):
    class Hungry(FakeCodec):
        def decompress(self, blob):
            decoded = super().decompress(blob)
            if decoded.width > 100:
                torch.empty(2**60)
            return decoded

    run = evaluate_codecs([ModelCodec(Hungry())], [pictures / "large.png", pictures / "small.png"])
    assert [Path(path).name for path in run.images] == ["small.png"]
    assert list(run.skipped) == [str(pictures / "large.png")]


def test_small_images_are_left_out_of_the_mean_ms_ssim_alone(pictures, caplog):
    run = evaluate_codecs([CLASSICAL_CODECS["jpeg"]], [pictures / "large.png", pictures / "small.png"])
    assert run.without_ms_ssim == [str(pictures / "small.png")]
    assert "too small for MS-SSIM" in caplog.text
    large, small = run.rows[:11], run.rows[11:]
    results = run.curves()[0].results
    assert results["ms-ssim-rgb"] == [row["ms-ssim-rgb"] for row in large]
    assert results["psnr-rgb"] == [(a["psnr-rgb"] + b["psnr-rgb"]) / 2 for a, b in zip(large, small, strict=True)]


def test_ctrl_c_keeps_the_images_that_are_done(pictures):
    class Interrupted(FakeCodec):
        def decompress(self, blob):
            if self.analyses == 3:
                raise KeyboardInterrupt
            return super().decompress(blob)

    codecs = [CLASSICAL_CODECS["jpeg"], ModelCodec(Interrupted())]
    run = evaluate_codecs(codecs, [pictures / "large.png", pictures / "small.png"])
    assert run.interrupted
    assert run.images == [str(pictures / "large.png")]
    assert {row["codec"] for row in run.rows} == {"jpeg", "Fake AG-VAE"}


def test_ctrl_c_before_the_first_image_is_done_is_no_result(pictures):
    class Interrupted(FakeCodec):
        def decompress(self, blob):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_codecs([ModelCodec(Interrupted())], [pictures / "large.png"])


def test_codecs_that_would_share_a_result_file_are_refused():
    with pytest.raises(ConfigError, match="different names"):
        evaluate_codecs([CLASSICAL_CODECS["jpeg"], replace(CLASSICAL_CODECS["jpeg"], name="JPEG")], [])


def test_evaluate_writes_the_contract(configure, fake_model, tmp_path, capsys):
    summary = engine.evaluate(configure("codecs=[jpeg,webp]", "data.name=My photos"))
    run = tmp_path / "run"
    results = {path.name: json.loads(path.read_text()) for path in (run / "results/my-photos").iterdir()}
    assert set(results) == {"fake-ag-vae.json", "jpeg.json", "webp.json"}
    keys = {"bpp", "psnr-rgb", "ms-ssim-rgb", "encoding_time", "decoding_time"}
    assert keys == set(results["jpeg.json"]["results"])
    assert keys | {"quality", "estimated_bpp"} == set(results["fake-ag-vae.json"]["results"])
    assert results["fake-ag-vae.json"]["results"]["quality"] == [0, 0.5, 1, 1.5, 2]

    with open(run / "per_image.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    for result in results.values():
        mine = [row for row in rows if row["codec"] == result["name"]]
        for key in keys:
            by_quality = {}
            for row in mine:
                by_quality.setdefault(row["quality"], []).extend([float(row[key])] if row[key] else [])
            assert result["results"][key] == pytest.approx([np.mean(v) for v in by_quality.values()])

    for name in ("rd_psnr.png", "rd_ms_ssim.png"):
        assert Image.open(run / name).size > (600, 400)
    assert summary == json.loads((run / "summary.json").read_text())
    assert set(summary["bd_rate"]) == {"jpeg", "webp"}
    assert abs(summary["bd_rate"]["jpeg"]["psnr-rgb"]["percent"]) < 2  # the fake is JPEG
    assert len(summary["skipped"]) == 1
    printed = capsys.readouterr().out
    assert "Fake AG-VAE on My photos" in printed
    assert str(run) in printed


def test_a_model_has_the_name_it_is_given(configure, fake_model, tmp_path):
    assert engine.evaluate(configure("codecs=[]", "name=Run 7", "qualities=1"))["model"] == "Run 7"
    assert [path.name for path in tmp_path.glob("run/results/*/*.json")] == ["run-7.json"]


def test_on_kodak_the_published_curves_are_anchors(configure, fake_model):
    rates = engine.evaluate(configure("codecs=[jpeg]", "data.name=kodak"))["bd_rate"]
    assert set(rates) == {"jpeg", "jpeg-published"} | set(PUBLISHED) - {"jpeg"}
    assert rates["jpeg"]["source"] == "this run"
    assert rates["vtm"]["source"] == "published"
    assert rates["qarv-mse"]["ms-ssim-rgb"]["reason"]


def test_published_curves_stand_in_for_missing_programs_on_kodak(configure, fake_model, tmp_path, monkeypatch, caplog):
    drawn = []

    def spy(curves, metric, published, title):
        drawn.append({curve.name for curve in published})
        return rd_figure(curves, metric, published, title)

    monkeypatch.setattr("agvae.reporting.figures.rd_figure", spy)
    monkeypatch.setattr("agvae.evaluation.reference._BACKGROUND", {"psnr-rgb": (), "ms-ssim-rgb": ("vtm",)})
    monkeypatch.setenv("PATH", str(tmp_path))
    summary = engine.evaluate(configure("codecs=[bpg,vtm,vvenc]", "data.name=kodak"))
    stand_ins = {name: missing["published"] for name, missing in summary["missing_codecs"].items()}
    assert stand_ins == {"bpg": "bpg444", "vtm": "vtm", "vvenc": None}
    assert drawn == [{"bpg444", "vtm"}] * 2
    assert {summary["bd_rate"][name]["source"] for name in ("bpg444", "vtm")} == {"published"}
    assert "bpg needs the program bpgenc: get libbpg" in caplog.text
    assert "its published curve on Kodak, bpg444, stands in" in caplog.text
    assert caplog.text.count("it is left out") == 1


def test_elsewhere_missing_codecs_are_left_out_by_name(configure, fake_model, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    summary = engine.evaluate(configure("codecs=[jpeg,heic,bpg,vtm,vvenc]"))
    assert set(summary["bd_rate"]) == {"jpeg"}
    for name in ("heic", "bpg", "vtm", "vvenc"):
        missing = summary["missing_codecs"][name]
        assert missing["published"] is None
        assert missing["reason"].startswith(f"{name} needs")
    assert caplog.text.count("it is left out") == 4


def test_the_configuration_names_every_codec_and_program(configure):
    programs = [program for codec in (BPGCodec, VTMCodec, VVenCCodec) for program in codec.programs]
    assert set(configure().programs) == {*programs, "vtm_config", "timeout"}
    assert (
        f"beside the model: {', '.join(evaluation.CODEC_NAMES)}. []: only" in (ROOT / "conf/evaluate.yaml").read_text()
    )


def test_a_missing_bd_rate_is_explained_once_for_all_anchors():
    falls = curve("falls", [0.1, 0.2], [31, 30])
    notes = evaluation.bd_rate_notes(bd_rates(falls, [PUBLISHED["jpeg"], PUBLISHED["webp"]]))
    assert len(notes) == 2
    assert notes[0].startswith("no BD-rate in psnr-rgb, falls does not rise")
    assert notes[0].endswith("(against jpeg, webp)")


def test_bd_rates_compare_the_model_with_each_anchor():
    rates = bd_rates(PUBLISHED["vtm"], [PUBLISHED["bpg444"]])
    assert rates["bpg444"]["psnr-rgb"]["percent"] == pytest.approx(-18.0, abs=0.2)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["codecs=[jpeg,h264]"], ConfigError, "codecs must be among jpeg, webp, avif, jpeg2000.*, not h264"),
        (
            ["codecs=[bpg]", "programs.bpgenc=/nowhere"],
            ConfigError,
            r"programs\.bpgenc must be the path of an executable program, not /nowhere",
        ),
        (["codecs=[]", "qualities=[0,9]"], ConfigError, "quality must be .*, not 9"),
        (["qualities=[]"], ConfigError, r"qualities must be .*, not \[\]"),
        (["qualities=fine"], ConfigError, "qualities must be .*, not fine"),
    ],
)
def test_wrong_choices_are_said(configure, fake_model, overrides, error, message):
    with pytest.raises(error, match=message):
        engine.evaluate(configure(*overrides))


def test_a_set_without_one_good_image_is_an_error(configure, fake_model, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/bad.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"no image was evaluated; .*bad\.png"):
        engine.evaluate(configure(f"data.root={tmp_path / 'bad'}", "codecs=[]"))


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "checkpoint"),
        (["checkpoint=missing.ckpt"], 1, "missing.ckpt"),
        (["checkpoint=~/missing.ckpt"], 1, str(Path.home() / "missing.ckpt")),
        (["checkpoint=missing.ckpt", "codecs=[nonesuch]"], 2, "nonesuch"),
        (["checkpoint=agvae-small-mse", "run_dir=/dev/null/x"], 1, "/dev/null"),
    ],
)
def test_the_command_ends_with_one_line_and_its_status(arguments, status, message, tmp_path):
    done = programs.run(ROOT / "evaluate.py", f"hydra.run.dir={tmp_path}", *arguments, cwd=tmp_path)
    assert done.returncode == status
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("metric", METRICS)
def test_rd_figures_mark_trained_levels_and_hold_all_that_is_visible(metric):
    names = ("vtm", "jpeg")
    ours = replace(PUBLISHED["mbt2018-mse"], name="ours")
    ours = replace(ours, results={**ours.results, "quality": [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]})
    figure = rd_figure([ours, PUBLISHED["webp"]], metric, [PUBLISHED[name] for name in names], "title")
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert set(lines) == {"ours", "webp", *names}
    assert lines["ours"].get_markevery() == [0, 2, 4, 6]
    assert axes.get_xscale() == "log"
    best = max(lines["ours"].get_ydata())
    assert axes.get_ylim()[0] < min(lines["ours"].get_ydata()) < best < axes.get_ylim()[1]


def test_rd_figures_of_one_point_or_of_none_are_drawn():
    one = curve("one", [0.3], [30.0], quality=[0.0])
    assert rd_figure([one], "psnr-rgb").axes[0].get_xlim()[0] < 0.3
    assert rd_figure([one], "ms-ssim-rgb").axes[0].get_lines()[0].get_xdata().size == 0
