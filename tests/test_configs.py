"""Every choice in conf/ composes, and every experiment trains."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from agvae.codec import model_file
from agvae.configuration import Evaluation, Training, checked
from agvae.engine import train
from agvae.models import AGVAE

CONF = Path(__file__).parents[1] / "conf"


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def configure(*overrides: str):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("train", list(overrides))


@pytest.mark.parametrize(
    "choice",
    [
        f"{group}={name}"
        for group in ("loss", "optimizer", "scheduler", "trainer", "callbacks", "logger", "debug", "experiment", "sweep")  # noqa: E501
        for name in names(group)
    ]
    + [f"model/{part}={name}" for part in ("transforms", "gain", "entropy", "context", "quantizer")
       for name in names(f"model/{part}")],
)  # fmt: skip
def test_every_choice_composes(choice, tmp_path):
    cfg = configure(choice, f"run_dir={tmp_path}")
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    checked(Training, config)
    assert AGVAE.from_config(config["model"]).config == config["model"]
    for callback in cfg.callbacks.values():
        instantiate(callback)


@pytest.mark.parametrize("data", names("data"))
def test_every_data_set_composes(data):
    root = [] if data == "sample" else ["data.root=DIR"]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("evaluate", [f"data={data}", *root, "checkpoint=agvae-mse", "run_dir=RUN"])
    checked(Evaluation, OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))


@pytest.mark.parametrize("experiment", names("experiment"))
def test_every_experiment_takes_two_steps(experiment, tmp_path):
    small = ["model.transforms.N=8", "model.transforms.M=12"]
    machine = ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.precision=32-true", "compile=false"]
    data = ["data=sample", "data.cache=memory", "init_from=null"]
    cfg = configure(f"experiment={experiment}", "debug=fast", *small, *machine, *data, f"run_dir={tmp_path}")
    if cfg.freeze:
        cfg.init_from, cfg.latents.crops = str(tmp_path / "codec.safetensors"), 4
        model_file.from_model(AGVAE.from_config(OmegaConf.to_container(cfg.model, resolve=True))).save(cfg.init_from)
    assert train(cfg).global_step == 2
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
