"""Properties of `agvae report`. The code of real runs writes the runs, and tests read the page back."""

import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY
from hydra import compose, initialize_config_dir
from lightning.pytorch.loggers import CSVLogger
from omegaconf import OmegaConf

from agvae import cli
from agvae.evaluation import Curve, Evaluation, background_curves, bd_rate, published_curves, quality_db, write_curve
from agvae.facts import write_run_facts
from agvae.models import AGVAE
from agvae.reporting import charts, html
from agvae.reporting.ablations import ablations, gaps
from agvae.reporting.collect import read_runs
from agvae.reporting.compare import compare
from agvae.training.callbacks import RDCurveWriter
from agvae.training.losses import resolved

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")


def points(levels=3, worth=0.0, top=None):
    """An RD curve with the keys of a validation: `worth` dB better at every rate, and 0.05 dB worse between levels."""
    qualities = [top] if top is not None else [half / 2 for half in range(2 * levels - 1)]
    found = []
    for quality in qualities:
        share = quality / max(levels - 1, 1)
        psnr = 28 + 9 * share + worth - 0.05 * (quality % 1 > 0)
        similarity = 1 - 10 ** (-(psnr - 18) / 10)
        found.append({"quality": quality, "bpp": 0.08 * 12**share, "psnr": psnr, "ms_ssim": similarity})
    return found


def write_training(folder, *overrides, curve=None, steps=(20, 40), checkpoint=True, scalars=True):
    """A folder as train.py leaves it after two validations."""
    hidden = folder / ".hydra"
    hidden.mkdir(parents=True)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        levels = [] if "model/gain=none" in overrides else ["model.gain.levels=3"]
        config = compose("train", ["trainer.max_steps=40", "logger=csv", *levels, *overrides])
    OmegaConf.save(config, hidden / "config.yaml")
    facts = {key: OmegaConf.to_container(config[key], resolve=True) for key in ("model", "loss")}
    facts["loss"] = resolved(facts["loss"], config.model.gain.levels)
    write_run_facts(folder, {"run": str(folder), **facts})
    writer = RDCurveWriter(folder / "rd.csv")
    for step in steps:
        trainer = SimpleNamespace(sanity_checking=False, is_global_zero=True, global_step=step, loggers=[])
        writer.on_validation_end(trainer, SimpleNamespace(rd_points=curve or points()))
    if scalars:
        logger = CSVLogger(folder, name="csv")
        for step in range(4, 40, 5):
            logger.log_metrics({"train/loss": 100 / (1 + step), "train/bpp": 0.5}, step)
        for step in steps:
            logger.log_metrics({"val/loss": 50 / step, "val/bpp_q0": 0.1, "val/unheard_of": 1.0 + step}, step - 1)
        logger.save()
    if checkpoint:
        (folder / "checkpoints").mkdir()
        model = {**TINY, "gain": {"name": config.model.gain.name, "levels": config.model.gain.levels}}
        trained = AGVAE.from_config(model)
        trained.initialise_gains([4.0**level for level in range(trained.levels)])
        weights = {f"model.{name}": value for name, value in trained.state_dict().items()}
        parameters = {"model": model, "loss": facts["loss"]}
        content = {"state_dict": weights, "hyper_parameters": parameters, "global_step": 40, "run": str(folder)}
        torch.save(content, folder / "checkpoints" / "last.ckpt")
    return folder


def as_curve(name, found, ours=True):
    keys = {"bpp": "bpp", "psnr-rgb": "psnr", "ms-ssim-rgb": "ms_ssim"} | ({"quality": "quality"} if ours else {})
    results = {key: [point[own] for point in found] for key, own in keys.items()}
    return Curve(name, "", {**results, "encoding_time": [0.1] * len(found), "decoding_time": [0.1] * len(found)})


def facts_of(folder):
    """The facts in a model exported from a training run."""
    return {**json.loads((folder / "run.json").read_text()), "steps": 40, "fingerprint": "0a1b2c3d"}


def write_evaluation(folder, checkpoint, curves, dataset="kodak", images=2, **facts):
    """A folder as evaluate.py leaves it."""
    results = folder / "results" / dataset
    results.mkdir(parents=True)
    (folder / ".hydra").mkdir()
    OmegaConf.save({"checkpoint": str(checkpoint), "codecs": ["jpeg"]}, folder / ".hydra" / "config.yaml")
    for curve in curves:
        write_curve(curve, results / f"{curve.name}.json")
    columns = ("width", "height", "bytes", "bpp", "psnr-rgb", "ms-ssim-rgb", "encoding_time", "decoding_time")
    names = [f"/photos/kodim{i + 1:02}.png" for i in range(images)]
    rest = {"codec": "x", "quality": 1.0, "estimated_bpp": math.nan, **dict.fromkeys(columns, 1)}
    Evaluation([], [{"image": name, **rest} for name in names]).write_csv(folder / "per_image.csv")
    summary = {"dataset": dataset, "images": images, "skipped": {}, "interrupted": False, "checkpoint": str(checkpoint)}
    summary["facts"] = {"fingerprint": str(checkpoint), **facts}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


LAMBDAS = (0.0003, 0.003873, 0.05)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep of three models and fixed-rate models, with evaluations on Kodak beside JPEG."""
    folder = tmp_path_factory.mktemp("sweep")
    write_training(folder / "train" / "0")
    write_training(folder / "train" / "1", "model/entropy=symmetric", curve=points(worth=-0.3))
    write_training(folder / "train" / "2", "model.gain.levels=6", curve=points(6, worth=0.1))
    for i, value in enumerate(LAMBDAS):
        fixed = [{**points(worth=0.2, top=float(i))[0], "quality": 0.0}]
        write_training(folder / "train" / f"fixed{i}", "model/gain=none", f"loss.lambdas=[{value}]", curve=fixed)
    jpeg = as_curve("jpeg", points(worth=-5), ours=False)
    for name, worth in (("0", 0), ("1", -0.4)):
        checkpoint = folder / "train" / name / "checkpoints" / "last.ckpt"
        curves = [as_curve("last", points(worth=worth)), jpeg]
        write_evaluation(folder / "evaluate" / name, checkpoint, curves, images=24, **facts_of(folder / "train" / name))
    return folder


@pytest.fixture(scope="module")
def page(sweep):
    """The sweep's page, made by the command."""
    path = sweep.parent / f"{sweep.name}.html"
    assert cli.main(["report", str(sweep), "-o", str(path), "--title", "A <sweep> & more"]) == 0
    return path


@pytest.fixture(scope="module")
def comparison(sweep):
    return compare(read_runs([sweep]))


class Page(HTMLParser):
    """The content of a page: elements with their attributes, and the text of each script and style."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.texts, self.ids = [], {}, set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        self.ids.add(attributes.get("id"))

    def handle_data(self, data):
        self.texts.setdefault(self.lasttag, []).append(data)


def figures(path):
    text = re.search(r'<script type="application/json" id="figures">(.*?)</script>', path.read_text(), re.S)[1]
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))["figures"]


def traces(path, chart, view=0):
    return {trace["uid"]: trace for trace in figures(path)[chart][view]["data"]}


def report(capsys, *arguments):
    status = cli.main(["report", *map(str, arguments)])
    return status, *capsys.readouterr()


# ------------------------------------------------------------ the page


def test_the_page_loads_nothing(page):
    parsed = Page(page)
    for tag, attributes in parsed.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
        assert "url(" not in attributes.get("style", "")
    assert not any("url(" in text or "@import" in text for text in parsed.texts["style"])
    policy = next(a["content"] for tag, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_every_entry_of_the_contents_leads_somewhere(page):
    parsed = Page(page)
    links = [attributes["href"] for tag, attributes in parsed.elements if tag == "a"]
    assert len(links) == 6  # runs, two sets of images, learning curves, gain vectors, how to read
    assert {link.removeprefix("#") for link in links} <= parsed.ids
    charts = {attributes["data-figure"] for _, attributes in parsed.elements if "data-figure" in attributes}
    assert charts == set(figures(page))


def test_the_title_is_text_whatever_is_in_it(page):
    assert "A &lt;sweep&gt; &amp; more" in page.read_text()


def test_rd_curves_are_those_of_the_runs(page, comparison):
    model = comparison.models[0]
    measured = traces(page, "rd-kodak-1")[f"model-{model.index}"]
    expected = as_curve("", points())
    assert measured["x"] == expected.results["bpp"]
    assert measured["y"] == expected.results["psnr-rgb"]
    in_db = traces(page, "rd-kodak-1", view=1)[f"model-{model.index}"]
    np.testing.assert_allclose(in_db["y"], quality_db(expected, "ms-ssim-rgb"))
    plain = traces(page, "rd-kodak-1", view=2)[f"model-{model.index}"]
    assert plain["y"] == expected.results["ms-ssim-rgb"]
    validated = traces(page, "rd-sample-validation-2")[f"model-{model.index}"]
    np.testing.assert_allclose(validated["y"], expected.results["psnr-rgb"], rtol=1e-5)


def test_published_curves_are_beside_those_on_kodak_alone(page):
    names = {f"published-{curve.name}" for curve in published_curves()}
    assert names <= traces(page, "rd-kodak-1").keys()
    assert not names & traces(page, "rd-sample-validation-2").keys()
    published = {curve.name: curve for curve in published_curves()}
    assert traces(page, "rd-kodak-1")["published-vtm"]["y"] == published["vtm"].results["psnr-rgb"]


def test_learning_curves_have_what_was_logged_and_not_the_rd_curves_again(page):
    drawn = {view["name"]: view["data"] for view in figures(page)["learning"]}
    assert {"Validation loss", "Training loss", "Rate in training (bpp), train/bpp", "val/unheard_of"} == drawn.keys()
    assert drawn["Validation loss"][0]["x"] == [19, 39]
    assert drawn["Validation loss"][0]["y"] == [2.5, 1.25]
    assert len(drawn["Training loss"]) == 6


def test_long_learning_curves_are_thinned_to_means(comparison):
    run, model = comparison.training[0]
    long = [(step, float(step % 2)) for step in range(100_000)]
    trace = charts.learning_trace(replace(run, scalars={"x": long}), model, "x")
    assert len(trace.x) == charts._LEARNING_POINTS
    assert set(trace.y) == {0.5}


def test_gain_vectors_are_those_of_the_checkpoint(page):
    views = figures(page)["gains"]
    assert [len(view["data"]) for view in views] == [2 * 3, 2 * 3, 2 * 6]  # fixed-rate models have none
    for level in range(3):
        for key, sign in (("gain", 1), ("inverse", -1)):
            trace = traces(page, "gains")[f"{key}-{level}"]
            np.testing.assert_allclose(trace["y"], 2.0 ** (sign * (level - 1)), rtol=1e-4)
            assert trace["x"] == list(range(1, 13))


def test_averaged_weights_are_preferred_as_in_export(tmp_path):
    folder = write_training(tmp_path / "run")
    path = folder / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["ema"] = {"gain.log_gain": torch.full((3, 12), 1.0), "gain.log_inverse": torch.full((3, 12), -1.0)}
    torch.save(content, path)
    (run,) = read_runs([tmp_path]).training
    np.testing.assert_allclose(run.gains["gain"], math.e)
    np.testing.assert_allclose(run.gains["inverse"], 1 / math.e)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_stand_out_from_the_page(scheme):
    css = (Path(html.__file__).parent / "page" / "page.css").read_text()
    pairs = re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", css)
    found = {name: colors[scheme] for name, *colors in pairs}
    wanted = [(color, 3) for color in (*charts.COLORS, *charts.PUBLISHED_COLORS)]
    wanted += [(found["ink"], 7), (found["soft"], 4.5), (found["link"], 4.5)]
    for color, least in wanted:
        low, high = sorted((luminance(found["paper"]), luminance(color)))
        assert (high + 0.05) / (low + 0.05) >= least, color  # WCAG 2.2, 1.4.3 and 1.4.11


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_no_two_models_look_alike():
    styles = [charts.style_of(index) for index in range(6 * len(charts.COLORS))]
    assert len(set(styles)) == len(styles)


# ---------------------------------------------------------- comparisons


def test_models_are_named_by_what_sets_them_apart(comparison):
    labels = [model.label.replace("\u00a0", " ") for model in comparison.models]
    expected = ["n = 3", "n = 3, symmetric", "n = 6", "fixed rate"]  # most are HCVR and half_mass
    assert labels == expected


def test_an_evaluation_has_the_name_of_the_run_whose_checkpoint_it_took(comparison):
    kodak = comparison.panels[0]
    assert kodak.coded
    assert [measured.model.index for measured in kodak.models] == [0, 1]
    assert [curve.name for curve in kodak.codecs] == ["jpeg"]


def test_an_exported_model_is_known_by_the_training_run_that_its_file_names(sweep, tmp_path, comparison):
    _, model = comparison.training[1]
    facts = {**facts_of(sweep / "train" / "1"), "fingerprint": "another: --half rounds the weights"}
    write_evaluation(tmp_path / "e", "mine.safetensors", [as_curve("mine", points())], "photos", **facts)
    both = compare(read_runs([sweep, tmp_path]))
    photos = next(panel for panel in both.panels if panel.title == "photos")
    assert [measured.model for measured in photos.models] == [model]


def test_evaluations_of_one_file_are_of_one_model(tmp_path):
    for name in ("photos", "drawings"):
        write_evaluation(tmp_path / name, "m.safetensors", [as_curve("m", points())], name, fingerprint="0a1b2c3d")
    assert len(compare(read_runs([tmp_path])).models) == 1


def test_folders_of_older_versions_are_read_and_the_missing_facts_said(tmp_path, capsys):
    run = write_training(tmp_path / "run")
    (run / "run.json").unlink()
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    del content["run"], content["hyper_parameters"]["loss"]
    torch.save(content, run / "checkpoints" / "last.ckpt")
    evaluation = write_evaluation(tmp_path / "e", "last.ckpt", [as_curve("last", points())], "photos")
    summary = json.loads((evaluation / "summary.json").read_text())
    del summary["facts"]
    (evaluation / "summary.json").write_text(json.dumps(summary))
    assert report(capsys, tmp_path, "-o", tmp_path / "r.html")[0] == 0
    notes = "\n".join(compare(read_runs([tmp_path])).notes)
    for words in (
        f"{run}: has no run.json, so an older version trained it",
        f"{run}: the λ of its levels are unknown",
        f"{evaluation}: an older version wrote summary.json",
    ):
        assert words in notes, words


def test_fixed_rate_models_make_one_curve(comparison):
    validation = comparison.panels[1]
    fixed = validation.models[-1]
    assert fixed.notes == tuple(f"λ = {value:g}" for value in LAMBDAS)
    assert fixed.curve.results["bpp"] == sorted(fixed.curve.results["bpp"])
    assert len(fixed.curve.results["bpp"]) == 3


def test_ablations_compare_models_that_differ_in_one_choice(comparison):
    found = ablations(comparison.panels[1].models)
    assert found.keys() == {"model.entropy", "model.gain.levels"}
    (entropy,) = found["model.entropy"]
    assert [row[0] for row in entropy.rows] == ["symmetric", "half_mass"]
    (anchor, test) = (row[1] for row in entropy.rows)
    assert entropy.rows[0][2]["psnr-rgb"] is None
    assert entropy.rows[1][2]["psnr-rgb"] == bd_rate(anchor.curve, test.curve)
    assert entropy.rows[1][2]["psnr-rgb"].percent < 0
    (levels,) = found["model.gain.levels"]
    assert [row[0] for row in levels.rows] == [1, 3, 6]


def test_the_loss_between_levels_is_the_one_that_was_put_there(comparison):
    found = {measured.model.index: gap for measured, gap in gaps(comparison.panels[1].models)}
    # dB is linear in log rate: a rate 12 times as high gives 9 dB more.
    rate = 100 * math.expm1(math.log(12) / 9 * 0.05)
    for index in (0, 1, 2):
        assert found[index].mean["psnr-rgb"] == pytest.approx(0.05, abs=1e-4)
        assert found[index].largest["psnr-rgb"] == pytest.approx(0.05, abs=1e-4)
        assert found[index].bits == pytest.approx(rate, rel=1e-2)
    assert found[0].levels_to_fixed == pytest.approx(100 * math.expm1(math.log(12) / 9 * 0.2), rel=1e-2)
    assert found[0].between_to_fixed > found[0].levels_to_fixed
    assert found[1].levels_to_fixed is None  # there is no symmetric fixed-rate model


def test_tables_of_the_page_have_these_figures(page, comparison):
    text = page.read_text()
    kodak = comparison.panels[0]
    anchor, test = kodak.models
    for one, other in ((anchor, test), (test, anchor)):
        assert f">{html._percent(bd_rate(one.curve, other.curve).percent)}</td>" in text
    vtm = next(curve for curve in published_curves() if curve.name == "vtm")
    assert f">{html._percent(bd_rate(vtm, anchor.curve).percent)}</td>" in text


# -------------------------------------------------------- damaged runs


def test_nothing_usable_is_one_line_and_status_1(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("")
    output = tmp_path / "r.html"
    for what, words in (("empty", "empty: is empty"), ("nowhere", "no such folder"), ("file.txt", "is a file")):
        status, out, err = report(capsys, tmp_path / what, "-o", output)
        assert (status, out) == (1, "")
        assert err.count("\n") == 1
        assert words in err
    assert not output.exists()
    assert report(capsys, tmp_path, "-o", tmp_path / "no" / "r.html")[0] == 1


def test_what_is_wrong_with_a_run_is_said_and_the_rest_reported(tmp_path, capsys):
    write_training(tmp_path / "good")
    died = write_training(tmp_path / "died", "model.gain.levels=2", "trainer.max_steps=90", steps=(), checkpoint=False)
    bare = write_training(tmp_path / "bare", steps=(), checkpoint=False, scalars=False)
    (tmp_path / "nothing").mkdir()
    cut = write_training(tmp_path / "cut", "model/entropy=symmetric", "trainer.max_steps=100")
    lines = (cut / "rd.csv").read_text().splitlines()
    (cut / "rd.csv").write_text("\n".join(lines[:-1]) + "\n40,2,0.")
    damaged = write_training(tmp_path / "damaged", "model/context=checkerboard")
    (damaged / "checkpoints" / "last.ckpt").write_bytes(b"PK nothing of the sort")
    (damaged / "csv" / "version_0" / "metrics.csv").write_text("epoch,step,train/loss\n0,4,1.5\n0,9,2.0\n0,4x")
    unconfigured = write_training(tmp_path / "unconfigured", "model/quantizer=noise")
    shutil.rmtree(unconfigured / ".hydra")
    (unconfigured / "run.json").unlink()
    other = write_training(tmp_path / "other", "loss.lambdas=[0.001,0.002,0.004]")
    text = (other / "rd.csv").read_text().splitlines()
    (other / "rd.csv").write_text("\n".join([f"{text[0]},vmaf", *(f"{line},90" for line in text[1:])]) + "\n")

    status, out, err = report(capsys, tmp_path, "-o", tmp_path / "r.html")
    assert status == 0
    assert "6 training runs" in out
    said = (
        f"{died}: has no rd.csv",
        f"{died}: has no checkpoint",
        f"{died}: ended at step 40 of 90",
        f"{bare}: holds only its configuration",
        f"{tmp_path / 'nothing'}: is empty",
        f"{cut}: rd.csv has 1 line that cannot be read",
        f"{cut}: the validation at step 40 has 4 of 5 qualities",
        f"{cut}: ended at step 40 of 100",
        f"{damaged}: last.ckpt cannot be read",
        f"{damaged}: csv/version_0/metrics.csv cannot be read to its end",
        f"{unconfigured}: has no .hydra/config.yaml",
        f"{other}: rd.csv has the unknown metric vmaf",
        "λ ladders differ",
    )
    for words in said:
        assert f"agvae: note: {words}" in err, words
    assert err.count(f"{bare}: ") == 1
    shown = "".join(Page(tmp_path / "r.html").texts["li"])
    for words in said:
        assert words in shown, words

    runs = {run.path.name: run for run in read_runs([tmp_path]).training}
    assert runs["died"].curve is None
    assert runs["died"].scalars["train/loss"]
    assert runs["cut"].curve_step == 20
    assert runs["damaged"].scalars["train/loss"] == [(4, 1.5), (9, 2.0)]
    assert len(runs["other"].curve.results["bpp"]) == 5
    assert runs["unconfigured"].facts["model"]["gain"]["levels"] == 3  # read from the checkpoint


def test_what_is_wrong_with_an_evaluation_is_said_and_the_rest_reported(tmp_path, capsys):
    curves = [as_curve("model", points()), as_curve("jpeg", points(worth=-5), ours=False)]
    strange = Curve("strange", "", {**curves[1].results, "vmaf": [90.0] * 5})
    good = write_evaluation(tmp_path / "a", "model.safetensors", [*curves, strange], "photos")
    (good / "results" / "photos" / "broken.json").write_text('{"name": "broken", "results": {"bpp": [1]')
    (good / "results" / "photos" / "uneven.json").write_text(
        '{"name": "uneven", "results": {"bpp": [1, 2], "psnr-rgb": [30]}}'
    )
    changed = write_evaluation(tmp_path / "b", "two.safetensors", [as_curve("jpeg", points(), ours=False)], "photos")
    empty = write_evaluation(tmp_path / "c", "three.safetensors", [], "photos")
    part = write_evaluation(tmp_path / "d", "four.safetensors", [as_curve("model", points())], "photos", images=1)
    summary = json.loads((part / "summary.json").read_text())
    (part / "summary.json").write_text(json.dumps({**summary, "interrupted": True, "skipped": {"x.png": "broken"}}))

    status, _, err = report(capsys, tmp_path, "-o", tmp_path / "r.html")
    assert status == 0
    for words in (
        f"{good}: results/photos/broken.json is not a curve",
        f"{good}: results/photos/uneven.json is not a curve",
        f"{good}: results/photos/strange.json has the unknown metric vmaf",
        f"{changed}: jpeg has other results on photos",
        f"{empty}: is an evaluation that did not finish",
        f"{part}: was interrupted: its means cover 1 images",
        f"{part}: left out 1 image",
    ):
        assert f"agvae: note: {words}" in err, words
    # Means over different images are not compared.
    panels = compare(read_runs([tmp_path])).panels
    assert [[m.model.label for m in panel.models] for panel in panels] == [[f"model ({good})"], [f"model ({part})"]]
    assert [curve.name for curve in panels[0].codecs] == ["jpeg", "strange"]
    assert len(figures(tmp_path / "r.html")) == 2


def test_a_resumed_run_counts_once(tmp_path):
    folder = write_training(tmp_path / "run", steps=(20, 40))
    writer = RDCurveWriter(folder / "rd.csv")
    trainer = SimpleNamespace(sanity_checking=False, is_global_zero=True, global_step=40, loggers=[])
    writer.on_validation_end(trainer, SimpleNamespace(rd_points=points(worth=1)))
    logger = CSVLogger(folder, name="csv")
    logger.log_metrics({"train/loss": 7.0}, 24)
    logger.save()
    (run,) = read_runs([tmp_path, folder]).training
    assert run.curve.results["psnr-rgb"][0] == pytest.approx(29)
    assert [step for step, _ in run.scalars["train/loss"]] == [4, 9, 14, 19, 24]


def test_a_missing_package_is_named(tmp_path, capsys, monkeypatch):
    write_training(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    status, _, err = report(capsys, tmp_path, "-o", tmp_path / "r.html")
    assert status == 2
    assert "plotly" in err
    assert ".[report]" in err


# ------------------------------------------------------------- the browser


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium to look with")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height", "touch"), [(1366, 768, False), (390, 844, True)])
def test_the_page_works_in_a_browser(browser, page, width, height, touch, scheme):
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=touch, is_mobile=touch, offline=True
    )
    tab = context.new_page()
    trouble, requests = [], []
    tab.on("console", lambda message: trouble.append(message.text))
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri())
    plots = tab.locator(".plot")
    for i in range(plots.count()):
        plots.nth(i).scroll_into_view_if_needed()
        plots.nth(i).locator(".scatterlayer .trace").first.wait_for(state="attached")
        box = plots.nth(i).locator(".main-svg").first.bounding_box()
        assert box["width"] > 0.7 * min(width, 380)
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        area = plots.nth(i).evaluate("e => e._fullLayout._size.h")
        assert area > 150  # the legend leaves room for the curves
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width  # tables fit
    assert trouble == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []

    chart = tab.locator(RD)
    curve = chart.locator(".scatterlayer .trace .lines path").last
    assert tab.evaluate("e => getComputedStyle(e).stroke", curve.element_handle()) == rgb(charts.COLORS[1])
    before = chart.locator(".scatterlayer .trace").count()
    toggle = chart.locator(".legendtoggle").first
    toggle.scroll_into_view_if_needed()
    toggle.click()
    playwright_expect(chart.locator(".scatterlayer .trace")).to_have_count(before - 1)
    assert "PSNR" in chart.locator(".ytitle").text_content()
    tab.get_by_label("Rate-distortion curves on kodak: view").select_option("MS-SSIM")
    assert "MS-SSIM" in chart.locator(".ytitle").text_content()
    playwright_expect(chart.locator(".scatterlayer .trace")).to_have_count(before - 1 - len(without_ms_ssim()))
    assert trouble == []
    context.close()


def playwright_expect(locator):
    from playwright.sync_api import expect

    return expect(locator)


RD = '.plot[data-figure="rd-kodak-1"]'


def without_ms_ssim():
    """Names of published curves that are drawn but have no MS-SSIM."""
    drawn = {c.name: c for metric in ("psnr-rgb", "ms-ssim-rgb") for c in background_curves(metric)}
    return [curve for curve in drawn.values() if not np.isfinite(quality_db(curve, "ms-ssim-rgb")).any()]


@pytest.mark.slow
def test_plots_follow_the_scheme_while_the_page_is_open(browser, page):
    tab = browser.new_page(color_scheme="light")
    tab.goto(page.as_uri())
    title = tab.locator(f"{RD} .ytitle")
    title.wait_for(state="attached")
    fill = "e => getComputedStyle(e).fill"
    light = tab.evaluate(fill, title.element_handle())
    tab.emulate_media(color_scheme="dark")
    assert tab.evaluate(fill, title.element_handle()) != light
    tab.close()


def rgb(color):
    return "rgb({}, {}, {})".format(*(int(color[i : i + 2], 16) for i in (1, 3, 5)))


@pytest.mark.slow
def test_real_runs_are_read_without_a_note(tmp_path):
    def run(*command):
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True, text=True, timeout=600)

    small = ["experiment=quickstart", "init_from=null"]
    small += ["model.transforms.N=8", "model.transforms.M=12", "model.transforms.blocks=1"]
    quick = ["trainer.max_steps=4", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1", "logger=csv"]
    data = ["data.batch_size=2", "data.patch_size=64", "data.val_crop=192", "model.gain.levels=2"]
    run("train.py", *small, *quick, *data, f"hydra.run.dir={tmp_path}/train")
    checkpoint = f"{tmp_path}/train/checkpoints/last.ckpt"
    run("evaluate.py", f"checkpoint={checkpoint}", "codecs=[jpeg]", f"hydra.run.dir={tmp_path}/evaluate")
    runs = read_runs([tmp_path])
    assert runs.notes == []
    comparison = compare(runs)
    assert [panel.coded for panel in comparison.panels] == [True, False]
    assert all(panel.models[0].model is comparison.models[0] for panel in comparison.panels)
    (trained,) = runs.training
    assert (trained.steps, trained.curve_step, trained.gains["gain"].shape) == (4, 4, (2, 12))
    assert "val/loss" in trained.scalars
