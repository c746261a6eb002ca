"""The paper's figures and tables: the command line, the files, and the numbers in them."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY, lively_model
from PIL import Image

from agvae.codec import Codec, model_file
from agvae.codec.bitstream import unpack
from agvae.entropy.densities import likelihood
from agvae.evaluation import CLASSICAL_CODECS, Curve, write_curve
from agvae.metrics import psnr
from agvae.models.context import CONTEXTS
from agvae.models.outputs import Parameters
from agvae.quality import quality_from_fixed
from agvae.reporting import paper
from agvae.reporting.latents import bit_map, bits, expected_histogram, gaussian_of
from agvae.reporting.paper.pictures import PAPER_BOXES, PAPER_TARGETS, detailed_boxes

# Wide enough for rates that classical codecs can reach: 0.62 to 0.71 bpp.
WIDE = {**TINY, "transforms": {"name": "minnen2018", "N": 8, "M": 64}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a model of each kind, and a picture in a subfolder."""
    from skimage import data

    folder = tmp_path_factory.mktemp("paper")
    kinds = {
        "asymmetric": {},
        "symmetric": {"entropy": {"name": "symmetric"}},
        "fixed": {"gain": {"name": "none", "levels": 1}},
    }
    for name, change in kinds.items():
        model = lively_model({**WIDE, **change})
        if name == "symmetric":
            model.g_s[-1].bias.data += 0.002  # so that it can reach the PSNR of the other model
        model_file.from_model(model).save(folder / f"{name}.safetensors")
    (folder / "images").mkdir()
    Image.fromarray(data.astronaut()[:192, 64:256]).save(folder / "images" / "Astronaut.png")
    return folder


@pytest.fixture
def draw(folder, tmp_path, monkeypatch, capsys):
    """Runs a command in the folder and returns its output. Pictures go to tmp_path/out."""
    monkeypatch.chdir(folder)

    def run(*arguments: object) -> str:
        paper.main([*map(str, arguments), "--output", str(tmp_path / "out")])
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(draw, capsys):
    """Runs a command that must fail with one line, and returns its exit status and that line."""

    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            draw(*arguments)
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return stop.value.code, error

    return run


ASTRONAUT = ("--images", "images", "--picture", "astronaut")
SIDE_BY_SIDE = ("figures3-6", "--images", "images", "--mse", "asymmetric.safetensors")


def numbers(tmp_path, name: str):
    return json.loads((tmp_path / "out" / f"{name}.json").read_text())


def inked(path) -> bool:
    """Whether the picture has more than 50 colours, so that it is not empty."""
    with Image.open(path) as image:
        return len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50


# ------------------------------------------------------------- figure 1


def test_figure1_draws_the_gains_of_y_and_of_z(draw, folder, tmp_path):
    draw("figure1", "--model", "asymmetric.safetensors")
    model = Codec.load(folder / "asymmetric.safetensors").model
    drawn = numbers(tmp_path, "figure1")
    for latent, unit in (("y", model.gain), ("z", model.hyper_gain)):
        for key, gain in (("gain", unit.gain), ("inverse_gain", unit.inverse)):
            expected = torch.stack([gain(float(level)) for level in range(3)])
            assert drawn[latent][key] == pytest.approx(expected.numpy())
    assert inked(tmp_path / "out" / "figure1.png")
    assert inked(tmp_path / "out" / "figure1_z.png")


def test_figure1_of_a_checkpoint(draw, tiny_config, tmp_path):
    model = lively_model({**tiny_config, "gain": {"name": "cvr", "levels": 3}})
    state = {f"model.{name}": w for name, w in model.state_dict().items()}
    torch.save(
        {"hyper_parameters": {"model": model.config}, "state_dict": state, "global_step": 1}, tmp_path / "a.ckpt"
    )
    draw("figure1", "--model", tmp_path / "a.ckpt", "--format", "svg")
    assert "y" in numbers(tmp_path, "figure1")
    assert "<svg" in (tmp_path / "out" / "figure1.svg").read_text()
    assert not (tmp_path / "out" / "figure1_z.svg").exists()


# ------------------------------------------------------------- figure 2


def test_figure2_gives_the_bits_of_the_channel_that_takes_most(draw, folder, tmp_path):
    table = draw("figure2", "--model", "asymmetric.safetensors", "--bpp", 0.68, *ASTRONAUT)
    asymmetric, symmetric = numbers(tmp_path, "figure2")["models"]
    assert 0.99 * 0.68 <= asymmetric["bpp"] <= 0.68

    codec = Codec.load(folder / "asymmetric.safetensors")
    image = Image.open(folder / "images" / "Astronaut.png")
    data = codec.compress(image, bpp=0.68)
    coded = codec.model.code(codec.analyze(image).y, quality_from_fixed(unpack(data).header.quality))
    by_channel = coded.y_bits.sum((0, 2, 3))
    assert asymmetric["channel"] == by_channel.argmax()
    assert asymmetric["channel_bits"] == pytest.approx(by_channel.max().item())
    assert asymmetric["y_bits"] == pytest.approx(by_channel.sum().item())
    assert asymmetric["psnr"] == pytest.approx(psnr(image, codec.decompress(data)))
    assert symmetric["channel"] == asymmetric["channel"]
    assert symmetric["y_bits"] != asymmetric["y_bits"]
    assert f"{asymmetric['channel_bits']:,.0f}" in table
    assert inked(tmp_path / "out" / "figure2.png")


def test_figure2_shows_a_model_trained_symmetric_at_equal_psnr(draw, tmp_path):
    draw(
        "figure2",
        "--model",
        "asymmetric.safetensors",
        "--symmetric",
        "symmetric.safetensors",
        "--bpp",
        0.68,
        *ASTRONAUT,
    )
    asymmetric, _, trained = numbers(tmp_path, "figure2")["models"]
    assert asymmetric["psnr"] <= trained["psnr"] <= asymmetric["psnr"] + 0.05
    with Image.open(tmp_path / "out" / "figure2.png") as image:
        assert image.height > 1000  # two rows


def test_figure2_takes_a_fixed_rate_model_as_it_is(draw, tmp_path):
    draw("figure2", "--model", "fixed.safetensors", *ASTRONAUT)
    assert numbers(tmp_path, "figure2")["models"][0]["bpp"] > 0


@pytest.mark.parametrize("context", CONTEXTS)
def test_bits_of_the_latent_are_the_codecs_own(tiny_config, photo, context):
    codec = Codec(model_file.from_model(lively_model({**tiny_config, "context": {"name": context}})))
    image = photo.crop((0, 0, 100, 70))
    latent = codec.analyze(image)
    coded = codec.model.code(latent.y, 1.25)
    total = coded.y_bits.sum() + coded.z_bits.sum()
    assert total.item() == pytest.approx(codec.estimate(latent, quality=1.25), rel=1e-6)
    assert bit_map(coded).shape == (1, 8, 8)
    assert bit_map(coded).sum() == pytest.approx(total.item(), rel=1e-5)
    y_hat = coded.symbols + coded.parameters.mu
    assert torch.equal(y_hat, coded.y_hat)
    assert (coded.y_bar - y_hat).abs().max() <= 0.501
    assert bits(y_hat, coded.parameters, codec.model.form) == pytest.approx(coded.y_bits.numpy(), abs=1e-4)


@pytest.mark.parametrize("form", ["half_mass", "two_piece"])
def test_the_gaussian_counterpart_has_the_mean_and_variance_of_the_asymmetric_one(form):
    asymmetric = Parameters(*torch.tensor([[0.3, -2.0], [12.0, 15.0], [25.0, 8.0]], dtype=torch.float64))
    mean, sigma, _ = gaussian_of(asymmetric, form)
    x = torch.arange(-300, 301, dtype=torch.float64)[:, None]
    p = likelihood(x, *asymmetric, form=form)
    assert (p * x).sum(0) == pytest.approx(mean.numpy(), abs=5e-3)
    # Bins of width 1 add 1/12 to the variance.
    assert (p * (x - mean) ** 2).sum(0) - 1 / 12 == pytest.approx((sigma**2).numpy(), rel=1e-3)


@pytest.mark.parametrize("form", ["half_mass", "two_piece"])
def test_no_other_gaussian_needs_fewer_bits_where_the_asymmetric_one_is_right(form):
    one = Parameters(*torch.tensor([0.0, 12.0, 20.0], dtype=torch.float64))
    x = torch.arange(-200, 201, dtype=torch.float64)
    p = likelihood(x, *one, form=form)

    def cost(mean, sigma):
        return (p * -likelihood(x, mean, sigma, sigma).log2()).sum()

    mean, sigma, _ = gaussian_of(one, form)
    for shift, factor in ((0.5, 1), (-0.5, 1), (0, 1.05), (0, 0.95)):
        assert cost(mean, sigma) < cost(mean + shift, sigma * factor)


def test_the_expected_histogram_is_the_mean_over_elements_and_sums_to_one():
    parameters = Parameters(*torch.tensor([[0.0, 3.2], [1.0, 2.0], [2.0, 0.5]]))
    centres = torch.arange(-30.0, 31.0)
    shares = expected_histogram(centres, parameters, "half_mass")
    assert shares.sum() == pytest.approx(1)
    apart = [expected_histogram(centres, Parameters(*(p[i] for p in parameters)), "half_mass") for i in (0, 1)]
    assert shares == pytest.approx((sum(apart) / 2).numpy())


# ------------------------------------------------------------- figures 3 to 6


@pytest.mark.slow
def test_side_by_side_ours_never_takes_more_than_the_first_codec(draw, folder, tmp_path):
    table = draw(
        *SIDE_BY_SIDE, "--msssim", "symmetric.safetensors", "--target", "astronaut=0.68", "--codecs", "webp", "jpeg"
    )
    found = numbers(tmp_path, "figure3-6_astronaut_0.680bpp")
    entries = {entry["codec"]: entry for entry in found["codecs"]}
    assert list(entries) == ["AG-VAE [MS-SSIM]", "AG-VAE [MSE]", "webp", "jpeg"]
    assert entries["webp"]["bpp"] <= 0.68
    assert entries["jpeg"]["bpp"] <= 0.68
    for name in ("AG-VAE [MS-SSIM]", "AG-VAE [MSE]"):
        assert 0.99 * entries["webp"]["bpp"] <= entries[name]["bpp"] <= entries["webp"]["bpp"]
    # Each entry is the result of its codec at its quality.
    image = Image.open(folder / "images" / "Astronaut.png")
    webp = CLASSICAL_CODECS["webp"]
    assert entries["webp"]["psnr"] == psnr(image, webp.decode(webp.encode(image, entries["webp"]["quality"])))
    codec = Codec.load(folder / "asymmetric.safetensors")
    again = codec.decompress(codec.compress(image, bpp=entries["webp"]["bpp"]))
    assert entries["AG-VAE [MSE]"]["psnr"] == psnr(image, again)
    assert f"{entries['jpeg']['psnr']:.2f}" in table
    assert inked(tmp_path / "out" / "figure3-6_astronaut_0.680bpp.png")


def test_side_by_side_goes_on_without_a_missing_program_and_says_how_to_get_it(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", str(tmp_path))
    paper.main([*SIDE_BY_SIDE, "--target", "astronaut=0.68", "--box", "10,20,64,32", "--output", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert [line.split()[:3] for line in error.splitlines()] == [["left", "out:", "vtm"], ["left", "out:", "bpg"]]
    (ours,) = numbers(tmp_path, "figure3-6_astronaut_0.680bpp")["codecs"]
    assert 0.99 * 0.68 <= ours["bpp"] <= 0.68


def test_side_by_side_of_a_picture_too_small_for_ms_ssim(draw, tmp_path, photo):
    photo.crop((0, 0, 128, 128)).save(tmp_path / "small.png")
    draw(*SIDE_BY_SIDE, "--images", tmp_path, "--target", "small=0.68", "--codecs")
    assert numbers(tmp_path, "figure3-6_small_0.680bpp")["codecs"][0]["ms_ssim"] is None


def test_boxes_are_where_most_happens():
    image = np.full((300, 400, 3), 128, np.uint8)
    image[150:, 130:250] = np.random.default_rng(0).integers(0, 255, (150, 120, 1))
    (x, y, width, height), _ = detailed_boxes(image)
    assert (x, y, width, height) == (120, 120, 120, 120)
    for shape in ((1, 1, 3), (5, 900, 3)):
        for x, y, width, height in detailed_boxes(np.zeros(shape, np.uint8)):
            assert 0 <= x < x + width <= shape[1]
            assert 0 <= y < y + height <= shape[0]


# ------------------------------------------------- equations and RD plots


def test_equations_print_counts_equal_to_the_formula(draw, tmp_path):
    text = draw("equations", "--model", "asymmetric.safetensors", "--size", "100x64", "--levels", 6)
    found = numbers(tmp_path, "equations")
    assert found["cvr"]["counted"] == found["cvr"]["formula"]
    assert found["hcvr"]["counted"] == found["hcvr"]["formula"]
    assert found["hcvr"]["formula"]["parameters"] == (64 + 8) * 6 * 2
    assert found["parts"]["whole model"]["parameters"] == sum(p.numel() for p in lively_model(WIDE).parameters())
    assert (tmp_path / "out" / "equations.md").read_text() in text
    assert "| HCVR" in text


def test_equations_of_a_fixed_rate_model_say_what_gain_would_cost(draw, tmp_path):
    draw("equations", "--model", "fixed.safetensors")
    assert numbers(tmp_path, "equations")["cvr"]["formula"]["parameters"] == 64 * 6 * 2


def rising(name: str, **more) -> Curve:
    return Curve(name, "", {"bpp": [0.1, 0.4], "psnr-rgb": [28.0, 33.0], "ms-ssim-rgb": [0.9, 0.98], **more})


@pytest.mark.slow
def test_rd_plots_tell_models_of_one_name_apart_and_draw_published_curves_on_kodak(draw, tmp_path, monkeypatch):
    from agvae.reporting import figures

    drawn = []
    original = figures.rd_figure
    monkeypatch.setattr(figures, "rd_figure", lambda *a: drawn.append(a) or original(*a))
    for run in ("first", "second"):
        place = tmp_path / run / "results" / "kodak"
        place.mkdir(parents=True)
        write_curve(rising("best", quality=[0.0, 1.0]), place / "best.json")
    write_curve(rising("jpeg"), place / "jpeg.json")
    draw("rd", "--results", tmp_path / "first" / "results" / "kodak", place)
    (curves, metric, published, title), (_, other, *_) = drawn
    assert [curve.name for curve in curves] == ["best (first)", "best (second)", "jpeg"]
    assert (metric, other, title) == ("psnr-rgb", "ms-ssim-rgb", "kodak")
    assert "vtm" in {curve.name for curve in published}
    assert "jpeg" not in {curve.name for curve in published}
    assert inked(tmp_path / "out" / "rd_psnr.png")
    assert inked(tmp_path / "out" / "rd_ms_ssim.png")


# ------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("figure1", "--model", "fixed.safetensors"), 1, "no gain vectors"),
        (("figure1", "--model", "missing.safetensors"), 1, "neither a file nor a model"),
        (("figure1", "--model", "asymmetric.safetensors", "--device", "abacus"), 2, "device abacus"),
        (("figure2", "--model", "symmetric.safetensors", *ASTRONAUT), 1, "has symmetric entropy"),
        (("figure2", "--model", "asymmetric.safetensors", "--images", "images"), 1, "no picture named kodim21"),
        (("figure2", "--model", "asymmetric.safetensors", "--images", "nowhere"), 1, "nowhere"),
        (("figure2", "--model", "asymmetric.safetensors", "--bpp", 99, *ASTRONAUT), 1, "out of range"),
        (
            ("figure2", "--model", "asymmetric.safetensors", "--symmetric", "asymmetric.safetensors", *ASTRONAUT),
            1,
            "must be a symmetric model",
        ),
        (("figures3-6", "--images", "images"), 2, "give a model with --mse, --msssim or both"),
        (("figures3-6", "--images", "images", "--mse", "fixed.safetensors", "--codecs"), 1, "a fixed-rate model"),
        ((*SIDE_BY_SIDE, "--codecs", "mp3"), 2, "not mp3"),
        ((*SIDE_BY_SIDE, "--codecs"), 1, "no picture named kodim24"),
        ((*SIDE_BY_SIDE, "--codecs", "--target", "astronaut=0.01"), 1, "out of range"),
        ((*SIDE_BY_SIDE, "--codecs", "webp", "--target", "astronaut=0.01"), 1, "astronaut: 0.01 bpp is out of range"),
        ((*SIDE_BY_SIDE, "--codecs", "--target", "astronaut=0.68", "--box", "150,0,64,64"), 2, "must lie within"),
        (
            (*SIDE_BY_SIDE, "--codecs", "--target", "astronaut=0.68", *["--box", "0,0,9,9"] * 5),
            2,
            "at most 4 times, not 5",
        ),
        (("rd", "--results", "images"), 1, "no curve"),
        (("rd", "--results", "images/Astronaut.png"), 1, "not a curve"),
        (("rd", "--results", "nowhere.json"), 1, "nowhere.json"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(refused, tmp_path, arguments, status, words):
    ended, error = refused(*arguments)
    assert ended == status
    assert words in error
    assert not list(tmp_path.glob("out/*.png"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("figure1",),
        ("figure2", "--model", "m", "--images", ".", "--bpp", "-1"),
        ("figures3-6", "--images", ".", "--target", "kodim24"),
        ("figures3-6", "--images", ".", "--box", "1,2,3"),
        ("figures3-6", "--images", ".", "--programs", "bpgenc"),
        ("equations", "--model", "m", "--size", "768"),
        (),
    ],
)
def test_wrong_usage_ends_with_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        paper.main(arguments)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("python -m agvae.reporting.paper")
    assert err.count("\n") == 1


def test_an_output_that_cannot_be_written_is_said(refused, tmp_path):
    (tmp_path / "out").write_text("a file")
    assert refused("equations", "--model", "asymmetric.safetensors")[0] == 1


def test_the_papers_own_boxes_lie_in_pictures_of_kodak():
    for boxes in PAPER_BOXES.values():
        for x, y, width, height in boxes:
            assert x + width <= 768
            assert y + height <= 512
    assert {target.picture for target in PAPER_TARGETS} == PAPER_BOXES.keys()
