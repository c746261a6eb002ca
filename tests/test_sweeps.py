"""Sweeps: Hydra and W&B have the same grid, every point of it is a model, and one command makes several runs."""

import itertools
import os
import runpy
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from agvae.errors import ConfigError, JobError
from agvae.models import AGVAE
from agvae.reporting import dashboard
from agvae.training.losses import level_lambdas
from agvae.training.multirun import run_job

ROOT = Path(__file__).parents[1]
SWEEPS = sorted(path.stem for path in (ROOT / "conf" / "sweep").glob("*.yaml"))


def configure(*overrides: str, **options):
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        return compose("train", list(overrides), **options)


def hydra_grid(name: str) -> list[list[str]]:
    """The overrides of each run of `python train.py -m sweep=NAME`, as Hydra's sweeper makes them."""
    params = configure(f"sweep={name}", return_hydra_config=True).hydra.sweeper.params
    overrides = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    (grid,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    return grid


@cache
def points(name: str) -> list[dict]:
    """The resolved configuration of each run of a sweep."""
    return [
        OmegaConf.to_container(configure(f"sweep={name}", *point, "run_dir=."), resolve=True, throw_on_missing=True)
        for point in hydra_grid(name)
    ]


def wandb_grid(name: str) -> list[list[str]]:
    """The overrides of each run of sweeps/NAME.yaml, as W&B's agent writes them on the command line."""
    sweep = yaml.safe_load((ROOT / "sweeps" / f"{name}.yaml").read_text())
    assert (sweep["method"], sweep["program"]) == ("grid", "train.py")
    command = ["${env}", "${interpreter}", "${program}", f"sweep={name}", "${args_no_hyphens}"]
    assert sweep["command"] == command
    keys, axes = zip(*((key, axis["values"]) for key, axis in sweep["parameters"].items()), strict=True)
    points = (
        {key: {"value": value} for key, value in zip(keys, point, strict=True)} for point in itertools.product(*axes)
    )
    return [create_sweep_command_args({"args": point})["args_no_hyphens"] for point in points]


def test_the_files_for_wandb_are_those_made_from_the_grids():
    made = runpy.run_path(str(ROOT / "sweeps" / "make.py"))["sweep_files"]()
    assert made == {path: path.read_text() for path in (ROOT / "sweeps").glob("*.yaml")}


def test_there_is_a_sweep_for_each_question():
    assert SWEEPS == ["contexts", "entropy", "gain_units", "gain_vectors", "level_sampling", "quantizers"]
    assert sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml")) == SWEEPS


@pytest.mark.parametrize("name", SWEEPS)
def test_hydra_and_wandb_run_the_same_grid_and_every_point_is_a_model(name):
    grid = hydra_grid(name)
    assert grid == wandb_grid(name)
    made = set()
    for config in points(name):
        with torch.device("meta"):
            model = AGVAE.from_config(config["model"])
        lambdas = level_lambdas(config["loss"], model.levels)
        made.add((str(config["model"]), *lambdas, config["loss"]["level_sampling"]))
    assert len(made) == len(grid)  # all differ


def test_numbers_of_gain_vectors_span_one_range_and_one_vector_is_a_fixed_rate_model_at_each_lambda():
    spans, fixed = {}, []
    for config in points("gain_vectors"):
        gain = config["model"]["gain"]
        lambdas = level_lambdas(config["loss"], gain["levels"])
        if gain["levels"] == 1:
            assert gain["name"] == "none"
            fixed += lambdas
        else:
            spans[gain["levels"]] = (lambdas[0], lambdas[-1])
    ladder = config["loss"]["ladder"]
    assert fixed == ladder
    assert spans.keys() == {2, 3, 4, 6, 8}
    assert all(span == pytest.approx((ladder[0], ladder[-1])) for span in spans.values())


def test_entropies_are_the_gaussian_and_both_asymmetric_forms():
    with torch.device("meta"):
        models = [AGVAE.from_config(config["model"]) for config in points("entropy")]
    assert [model.symmetric for model in models] == [True, False, False]
    assert [model.form for model in models[1:]] == ["half_mass", "two_piece"]


def test_a_sweep_goes_with_another_loss_and_experiment():
    cfg = configure("sweep=gain_vectors", "gain_vectors=fixed_5", "loss=msssim", "experiment=paper", "run_dir=.")
    assert list(cfg.loss.lambdas) == [0.07]
    assert (cfg.model.transforms.name, cfg.model.gain.name) == ("residual", "none")


# --- several runs by one command


def job(tmp_path: Path, *task: str) -> SimpleNamespace:
    """The settings that a job of a multirun has."""
    directory = tmp_path / "it's here"
    directory.mkdir()
    overrides = SimpleNamespace(hydra=["hydra.mode=MULTIRUN"], task=list(task))
    return SimpleNamespace(
        runtime=SimpleNamespace(output_dir=str(directory)), overrides=overrides, job=SimpleNamespace(num=3)
    )


def test_each_run_of_several_is_a_process_started_as_if_alone(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import pathlib, sys; pathlib.Path('told').write_text('\\n'.join(sys.argv[1:]))")
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        run_job(str(script), job(tmp_path, "seed=1"))
    finally:
        os.chdir(here)
    told = (tmp_path / "told").read_text().splitlines()
    assert told[:2] == ["hydra.mode=MULTIRUN", "seed=1"]
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        hydra = compose("train", told, return_hydra_config=True).hydra
    assert (hydra.mode.name, hydra.run.dir, hydra.output_subdir) == ("RUN", str(tmp_path / "it's here"), None)


def test_a_failed_run_of_several_is_named(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit(2)")
    with pytest.raises(JobError, match=r"run 3, in .*here, ended with status 2"):
        run_job(str(script), job(tmp_path))


@pytest.mark.slow
def test_a_sweep_runs_on_two_processes_each_and_goes_on_after_a_failure(tmp_path):
    command = (
        f"{ROOT / 'train.py'} -m sweep=level_sampling loss.lambdas=[1],null logger=csv hydra.sweep.dir=sweep "
        "model.transforms.N=8 model.transforms.M=12 data.batch_size=2 data.patch_size=64 data.val_crop=64 "
        "trainer.accelerator=cpu trainer.devices=2 trainer.max_steps=2 trainer.num_sanity_val_steps=0"
    )
    done = subprocess.run(
        [sys.executable, *shlex.split(command)],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: run 0, in {tmp_path / 'sweep' / '0'}, ended with status 2"
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]  # no folders of other ranks
    for number, sampling in ((1, "sample"), (3, "batch")):
        folder = tmp_path / "sweep" / str(number)
        assert yaml.safe_load((folder / "config.yaml").read_text())["loss"]["level_sampling"] == sampling
        assert len((folder / "rd.csv").read_text().splitlines()) == 1 + 11  # only one process writes
        assert (folder / ".hydra" / "overrides.yaml").exists()
        assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2


# --- the dashboard that compares them


def test_the_dashboard_compares_what_the_sweeps_vary():
    for comparison, name in ((dashboard.GAIN_VECTORS, "gain_vectors"), (dashboard.ENTROPY, "entropy")):
        assert [[f"{comparison.key}={value}"] for value in comparison.values] == hydra_grid(name)


def test_the_dashboard_is_built_and_sound_without_a_network(monkeypatch, capsys):
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    dashboard.main([])
    assert "nothing was sent" in capsys.readouterr().out
    view = dashboard.workspace("anna", "agvae")._to_model().model_dump_json(by_alias=True)
    page = dashboard.report("anna", "agvae")._to_model().model_dump_json(by_alias=True)
    for text in (view, page):
        for shown in ("rd/curve_table", "gains/y", "latent/channel_bpp", '"gain_vectors', '"entropy'):
            assert shown in text


@pytest.mark.parametrize("target", ["agvae", "a/b/c", "/agvae", "anna/"])
def test_publishing_needs_an_entity_and_a_project(target):
    with pytest.raises(ConfigError, match="--publish"):
        dashboard._build(target)


def test_publishing_needs_a_login(monkeypatch):
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setattr(dashboard, "logged_in", lambda: False)
    with pytest.raises(ConfigError, match="wandb login"):
        dashboard._build("anna/agvae")
