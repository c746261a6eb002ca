"""The ablation benchmark: each answer trains the model of its name, and differences between curves are right."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from agvae.evaluation import BDRate, Curve
from agvae.models import AGVAE

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def ablations():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import ablations

        yield ablations
        for name in ("ablations", "common", "variants"):
            sys.modules.pop(name, None)


def curve(bpp, psnr, quality=None):
    found = {"bpp": list(bpp), "psnr-rgb": list(psnr)}
    return Curve("curve", "", found if quality is None else found | {"quality": list(quality)})


@pytest.mark.slow
def test_every_answer_trains_another_model_at_the_same_budget(ablations):
    configs = {}
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        for name, setting in ablations.VARIANTS.items():
            config = compose("train", [*setting, "run_dir=."])
            configs[name] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    for names in (ablations.SETTINGS, ["shared", *ablations.ONLY]):
        group = [configs[name] for name in names]
        budgets = {(c["trainer"]["max_steps"], c["data"]["batch_size"], c["data"]["patch_size"]) for c in group}
        assert len(budgets) == 1
    different = {str((AGVAE.from_config(c["model"]).config, c["loss"])) for c in configs.values()}
    assert len(different) == len(ablations.VARIANTS)
    for level, name in enumerate(ablations.FIXED):
        assert configs[name]["model"]["gain"]["name"] == "none"
        assert configs[name]["loss"]["lambdas"] == [configs["default"]["loss"]["ladder"][level]]
    for levels in (2, 3, 4, 8):
        assert configs[f"n{levels}"]["model"]["gain"]["levels"] == levels
    for name, level in ablations.ONLY.items():
        assert configs[name] == configs["shared"] | {"loss": configs["shared"]["loss"] | {"levels": [level]}}


def anchor_of(question):
    return "shared" if question == "specialised" else "default"


def test_every_answer_belongs_to_a_question_that_has_its_anchor(ablations):
    assert set().union(*ablations.QUESTIONS.values()) == set(ablations.VARIANTS)
    assert all(anchor_of(question) in answers for question, answers in ablations.QUESTIONS.items())


def test_the_anchor_is_trained_with_every_seed_that_an_answer_has(ablations):
    for question in ablations.QUESTIONS:
        models = ablations.asked([question], seeds=2)
        assert len(models) == len(set(models))
        assert {seed for _, seed in models} <= {seed for name, seed in models if name == anchor_of(question)}


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 6, 8])
def test_a_curve_is_measured_at_its_levels_and_between_each_two(ablations, levels):
    at = ablations.qualities(levels)
    assert set(range(levels)) <= set(at)
    assert max(at) == levels - 1
    assert len(at) == 1 if levels == 1 else len(at) >= max(2 * levels - 1, 1 + ablations.STEPS_BETWEEN)


def test_psnr_at_other_rates_goes_through_the_points_and_ends_with_them(ablations):
    bpp, psnr = [0.1, 0.2, 0.4, 0.8], [25, 28, 30, 31]
    assert ablations.psnr_at(curve(bpp, psnr), bpp) == pytest.approx(psnr)
    assert 28 < ablations.psnr_at(curve(bpp, psnr), [0.3])[0] < 30
    assert np.isnan(ablations.psnr_at(curve(bpp, psnr), [0.09, 0.81])).all()


def test_qualities_between_levels_are_set_against_the_curve_through_the_levels(ablations):
    quality, bpp = np.arange(0, 3.5, 0.5), np.geomspace(0.1, 0.8, 7)
    psnr = 20 + 3 * np.log2(bpp)
    psnr[quality % 1 != 0] -= 0.25
    (row,) = ablations.vectors({"n4": "n = 4"}, {"n4": {0: curve(bpp, psnr, quality)}})
    assert row == ("n = 4", "-0.250", "-0.250", "-0.250")


def test_fixed_rate_models_are_compared_at_their_own_rates(ablations):
    bpp = np.geomspace(0.1, 1.6, 6)
    curves = {name: {0: curve([bpp[at]], [30 + at])} for at, name in enumerate(ablations.FIXED)}
    inside = np.geomspace(0.15, 2, 6)
    gained = 30 + 5 * np.log(inside / 0.1) / np.log(16) - 0.5
    curves |= {name: {0: curve(inside, gained), 1: curve(inside, gained - 1)} for name in ("default", "cvr")}
    first, *others, rates = ablations.against_fixed(ablations.FIXED, ["default", "cvr"], curves)
    assert first[2:] == ("outside its rates",) * 2
    assert {row[2:] for row in others} == {("-1.00 (-1.50 to -0.50)",) * 2}
    assert others[-1][0] == "lowest rate"
    assert all(text.startswith("+") for text in rates[2:])


def test_bd_rates_are_given_as_mean_and_range_over_seeds_or_as_the_reason_there_is_none(ablations):
    assert ablations.over_seeds([BDRate(1.5)]) == "+1.5 %"
    assert ablations.over_seeds([BDRate(1.0), BDRate(-2.0)]) == "-0.5 % (-2.0 to +1.0)"
    assert ablations.over_seeds([BDRate(1.0), BDRate(reason="no overlap")]) == "no overlap"
