"""The schema of the configuration: it accepts all of conf/, refuses every mistake in one line, and is documented."""

import copy
import inspect
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path

import programs
import pytest
from hydra import compose, initialize_config_dir
from lightning import Trainer
from omegaconf import OmegaConf

from agvae import engine
from agvae.configuration import Evaluation, Training, checked
from agvae.configuration.checking import known_keys
from agvae.configuration.command import OPTIONS, wrong_option
from agvae.configuration.values import fields_of
from agvae.data import ImageDataModule
from agvae.errors import ConfigError
from agvae.facts import flat
from agvae.training import resume
from agvae.training.module import AGVAEModule
from agvae.training.trainer import build_trainer

ROOT = Path(__file__).parents[1]
SMALL = ["model.transforms.N=8", "model.transforms.M=12", "trainer=cpu", "trainer.precision=32-true", "logger=csv"]


@cache
def composed(*overrides: str, name: str = "train") -> dict:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        cfg = compose(name, [*overrides, "run_dir=RUN"])
    return OmegaConf.to_container(cfg, resolve=True)


def refusal(schema, config: dict) -> str:
    """The message that refuses this configuration."""
    with pytest.raises(ConfigError) as refused:
        checked(schema, config)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_its_groups_are_the_folders_of_conf():
    folders = {path.parent.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    assert set(Training.GROUPS) == folders - {"."}
    assert set(Evaluation.GROUPS) < folders


def test_its_trainer_has_only_arguments_of_lightnings():
    keys = {key.removeprefix("trainer.") for key, _, _ in fields_of(Training) if key.startswith("trainer.")}
    assert keys < {*inspect.signature(Trainer.__init__).parameters}


def test_every_key_has_a_meaning():
    for schema in (Training, Evaluation):
        assert [key for key, _, field in fields_of(schema) if not field.description] == []


def test_the_reference_is_what_the_schema_makes():
    made = runpy.run_path(str(ROOT / "docs" / "make.py"))["reference"]()
    assert made == (ROOT / "docs" / "configuration.md").read_text(), "run python docs/make.py"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("+max_steps=2", "max_steps is not a key of the configuration: the nearest is trainer.max_steps"),
        ("+model/transform=residual", "the nearest is model/transforms"),
        ("+optimizer.momentum=1", "optimizer has name, lr, quantile_lr, betas, weight_decay"),
        ("+data.patchsize=64", "the nearest is data.patch_size"),
        ("+model.context.widht=64", "the nearest is model.context.width"),
        ("+callbacks.last.every_n_step=1", "the nearest is callbacks.last.every_n_steps"),
        ("+logger.csv.dir=x", r"logger\.csv has save_dir, name|nearest is logger\.csv\.save_dir"),
        ("+foo=1", "foo is not a key of the configuration: it has seed"),
        ("+scheduler.decay_share=0.5", r"not be set with scheduler=cosine: remove it with ~scheduler\.decay_share"),
        ("+model.transforms.blocks=2", "choose model/transforms=depthwise"),
        ("+entropy=symmetric", r"choices of sweep=entropy.*model\.\*"),
        ("~seed", r"seed is missing.*add \+seed"),
        ("model.transforms.name=vgg", r"model\.transforms\.name must be minnen2018, .*, not vgg"),
        ("optimizer.betas=[0.9,1]", r"two numbers from 0 to below 1, not \[0\.9, 1\]"),
        ("loss.ladder=[0.1,0.01]", r"loss\.ladder must rise"),
        ("+callbacks.mine._target_=no.such.Callback", r"callbacks\.mine\._target_ must be .* imported, not no\.such"),
        ("+callbacks.mine={_target_: lightning.pytorch.callbacks.Timer, time: 1}", "arguments of lightning.*'time'"),
    ],
)
def test_slips_are_answered_with_what_is_right(overrides, message):
    with pytest.raises(ConfigError, match=message):
        checked(Training, composed(overrides))


def test_any_callback_can_join_or_be_left_out():
    checked(Training, composed("+callbacks.mine={_target_: lightning.pytorch.callbacks.Timer, interval: step}"))
    checked(Training, composed("callbacks.progress_bar=null", "+trainer.enable_progress_bar=false"))


# --- every key × every kind of bad value


BAD = {"word": "abc", "null": None, "negative": -1, "huge": 10**15, "empty": [], "section": {"abc": 1}}

VARIANTS = [
    [],
    ["model/transforms=depthwise", "model/context=checkerboard", "scheduler=wsd", "ema.decay=0.9"],
    ["scheduler=multistep", "optimizer=adamw", "logger=tensorboard"],
    ["scheduler=plateau", "loss=msssim", "logger=wandb", "data.patch_size=192"],
]


def changed(config: dict, key: str, value) -> dict:
    config = copy.deepcopy(config)
    node = config
    *parents, last = key.split(".")
    for parent in parents:
        node = node[parent]
    node[last] = value
    return config


def said(function, *arguments) -> str:
    """The message that refuses a configuration, or "" if it is accepted. Any other error fails the test."""
    try:
        function(*arguments)
    except ConfigError as error:
        return str(error)
    return ""


def build(config: dict, run_dir: Path) -> None:
    """Build everything that a run builds from its configuration before it reads a picture."""
    checked(Training, config)
    engine._check(config)
    resume.load_checkpoint(config["ckpt_path"], run_dir)
    ImageDataModule.from_config(config["data"], seed=config["seed"])
    parts = ("model", "loss", "optimizer", "scheduler", "validation", "seed")
    module = AGVAEModule(**{key: config[key] for key in parts})
    if config["init_from"] is not None:
        resume.initialise(module.model, config["init_from"])
    build_trainer(config, run_dir, {})


@pytest.mark.parametrize("number", range(len(VARIANTS)))
@pytest.mark.parametrize("kind", BAD)
def test_every_key_refuses_bad_values_in_one_line_or_is_right(number, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = composed(*SMALL, *VARIANTS[number])
    others = set().union(*(flat(composed(*SMALL, *variant)) for variant in VARIANTS[:number]))
    for key in flat(config).keys() - others | ({"ema", "model.gain"} if not number else set()):
        assert "\n" not in said(build, changed(config, key, BAD[kind]), tmp_path)


@pytest.mark.parametrize("kind", BAD)
def test_every_key_of_an_evaluation_refuses_bad_values_or_is_right(kind):
    config = composed("checkpoint=x", name="evaluate")
    for key in flat(config):
        message = said(checked, Evaluation, changed(config, key, BAD[kind]))
        assert "\n" not in message
        assert not message or key in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ema.decay", "abc"), ("model.gain.levels", "abc"), ("loss.name", "abc"), ("loss.ladder", "abc"),
        ("trainer.max_epochs", "abc"), ("trainer.accumulate_grad_batches", "abc"),
        ("trainer.num_sanity_val_steps", "abc"), ("trainer.log_every_n_steps", "abc"),
        ("callbacks.best.monitor", "abc"), ("callbacks.tracking.growth", "abc"),
        ("callbacks.progress_bar.refresh_rate", "abc"), ("compile", "abc"), ("seed", True), ("data.batch_size", 2.5),
        ("optimizer.lr", float("nan")), ("threads", 0),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused_by_its_key(key, value):
    assert refusal(Training, changed(composed(), key, value)).startswith(f"{key} must be ")


# --- the command line


@pytest.mark.parametrize(
    ("arguments", "form"),
    [
        (["--experiment", "quickstart"], "write experiment=quickstart"),
        (["--experiment=quickstart"], "write experiment=quickstart"),
        (["trainer=cpu", "--max-steps", "trainer=cpu"], "write max_steps=VALUE"),
        (["-m", "--cfg", "job", "--resolve", "seed=1"], None),
    ],
)
def test_options_of_other_programs_are_answered_with_the_right_form(arguments, form):
    found = wrong_option(["train.py", *arguments])
    assert found is None if form is None else found.endswith(form)


def test_hydras_own_options_are_those_that_it_has():
    from hydra._internal.utils import get_args_parser

    options = {option for action in get_args_parser()._actions for option in action.option_strings}
    assert {option[2:] for option in options if option.startswith("--")} == OPTIONS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experiment", "quickstart"], "write experiment=quickstart"),
        (["max_steps=2"], "the nearest is trainer.max_steps"),
        (["callbacks.best.monitor=abc"], "callbacks.best.monitor must be val/loss"),
    ],
)
def test_the_command_answers_slips_with_one_line_status_2_and_no_folder(arguments, message, tmp_path):
    done = programs.run(ROOT / "train.py", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("outputs/train/*"))


def test_known_keys_are_named_as_overrides():
    assert {"trainer.max_steps", "model/transforms", "experiment", "model.transforms.blocks"} <= {*known_keys(Training)}


# --- resuming


def laid_over(saved: list[str], given: list[str]) -> dict:
    return resume.laid_over(composed(*saved), composed(*given), composed(), given)


def test_a_resumed_run_goes_on_with_its_own_configuration():
    saved = [*SMALL, "scheduler=wsd", "scheduler.decay_share=0.4", "trainer.max_steps=7", "data.batch_size=3"]
    assert laid_over(saved, ["ckpt_path=last"]) == composed(*saved, "ckpt_path=last")
    # A given value counts even if it is the default.
    given = ["ckpt_path=last", "trainer.max_steps=100000", "optimizer.lr=1e-5"]
    assert laid_over(saved, given) == composed(*saved, *given)
    assert (
        laid_over(saved, ["ckpt_path=last", "scheduler=multistep"])["scheduler"]
        == composed("scheduler=multistep")["scheduler"]
    )
    assert laid_over(saved, ["ckpt_path=last", "model/quantizer=noise"]) == composed(
        *saved, "model/quantizer=noise", "ckpt_path=last"
    )
    new = laid_over(
        saved,
        ["ckpt_path=last", "+trainer.benchmark=true", "+callbacks.mine._target_=lightning.pytorch.callbacks.Timer"],
    )
    assert new["trainer"]["benchmark"] is True
    assert new["callbacks"]["mine"] == {"_target_": "lightning.pytorch.callbacks.Timer"}


def test_a_recipe_given_on_resuming_is_laid_over_as_a_whole():
    changed_by = ["experiment=small", "ckpt_path=last"]
    checked(Training, laid_over(SMALL, changed_by))
    assert laid_over(SMALL, changed_by)["scheduler"] == composed("experiment=small")["scheduler"]


@pytest.mark.slow
def test_the_command_resumes_the_newest_run_without_its_options(tmp_path):
    def run(*arguments):
        command = [sys.executable, str(ROOT / "train.py"), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    options = [*SMALL, "debug=fast", "data.patch_size=64", "data.val_crop=64", "callbacks.progress_bar=null"]
    assert run(*options, "+trainer.enable_progress_bar=false", "loss.level_sampling=sample").returncode == 0
    refused = run("ckpt_path=last", "trainer.max_steps=4", "model.gain.levels=3")
    assert refused.returncode == 2
    assert "a resumed run must keep model.gain.levels=6" in refused.stderr
    done = run("ckpt_path=last", "trainer.max_steps=4")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "outputs" / "train").iterdir()
    assert f"run:        outputs/train/{path.name}, from step 2" in done.stdout
    config = OmegaConf.load(path / "config.yaml")
    assert (config.trainer.max_steps, config.model.transforms.N, config.data.patch_size) == (4, 8, 64)
    assert config.loss.level_sampling == "sample"
