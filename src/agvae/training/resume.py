"""Start from an earlier run: go on after its checkpoint, or begin with its weights."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from yaml import YAMLError

from agvae.codec import model_file
from agvae.configuration.values import seconds
from agvae.errors import ConfigError
from agvae.facts import flat
from agvae.models.peers import PeerModel
from agvae.models.trainable import Trainable
from agvae.training.budget import Budget
from agvae.training.directories import CONFIG, LAST


def load_checkpoint(ckpt_path: str | None, run_dir: Path) -> tuple[Path | None, dict[str, Any]]:
    """Path and content of the checkpoint that `ckpt_path` means: a file, or with `last` the last one of `run_dir`.

    (None, {}) for None. Raises ConfigError if it is missing or no checkpoint."""
    if ckpt_path is None:
        return None, {}
    path = run_dir / LAST if ckpt_path == "last" else Path(ckpt_path)
    if not path.is_file():
        what = "there is no run with a checkpoint" if ckpt_path == "last" else "there is no such file"
        raise ConfigError(f"ckpt_path={ckpt_path}: {what}; give the path of a checkpoint, or leave ckpt_path out")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        content["hyper_parameters"], content["loops"]
    except Exception as error:  # whatever a file that is none makes torch raise
        raise ConfigError(f"ckpt_path={path} is not a training checkpoint of this program") from error
    return path, content


def continued(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run that a command resumes: that which it saved, under the options that are given now.

    A program that calls `agvae.engine.train` gives a whole configuration, which stays as it is."""
    if config["ckpt_path"] is None or not HydraConfig.initialized():
        return config
    ckpt_path = config["ckpt_path"]
    run = Path(config["run_dir"]) if ckpt_path == "last" else Path(ckpt_path).parents[1]
    try:
        saved: Any = OmegaConf.to_container(OmegaConf.load(run / CONFIG))
    except (OSError, YAMLError):
        return config  # of an earlier version, or a checkpoint that was moved
    saved.pop("environment", None)
    defaults: Any = OmegaConf.to_container(compose("train", [f"run_dir='{config['run_dir']}'"]), resolve=True)
    return laid_over(saved, config, defaults, HydraConfig.get().overrides.task)


def laid_over(
    saved: dict[str, Any], config: dict[str, Any], defaults: dict[str, Any], given: Sequence[str]
) -> dict[str, Any]:
    """A saved configuration with what a command's options, `given`, say in its place.

    `config` is composed of the defaults and these options. They say the keys that they name, all keys of a group whose
    option they choose, and the keys in which `config` differs from `defaults`, as after experiment=NAME."""
    parsed = OverridesParser.create().parse_overrides([*given])
    named = {override.key_or_group.replace("/", ".") for override in parsed}
    groups = {override.key_or_group.replace("/", ".") for override in parsed if "." not in override.key_or_group}
    before, now = flat(defaults), flat(config)
    result = copy.deepcopy(saved)
    for key, value in now.items():
        parents = {key[:end] for end, letter in enumerate(key) if letter == "."}
        if not ({key, *parents} & named or key not in before or before[key] != value):
            continue
        section, _, last = key.rpartition(".")
        replaced = next(iter(parents & groups), section if last == "name" and _value(result, key) != value else None)
        if replaced:  # another choice has other keys
            _put(result, replaced, copy.deepcopy(_value(config, replaced)))
        else:
            _put(result, key, value)
    return result | {"ckpt_path": config["ckpt_path"], "run_dir": config["run_dir"]}


def _value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def _put(config: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for part in parents:
        if not isinstance(config.get(part), dict):
            config[part] = {}
        config = config[part]
    config[last] = value


def check_resumable(checkpoint: dict[str, Any], model: dict[str, Any], max_steps: int, max_time: str | None) -> None:
    """Raise ConfigError if the checkpoint holds another model than the one configured, or has no step left to take."""
    different = differences(checkpoint["hyper_parameters"]["model"], model)
    if different:
        raise ConfigError(
            f"a resumed run must keep {' '.join(different)}: leave these options out, or begin anew without ckpt_path"
        )
    if 0 <= max_steps <= checkpoint["global_step"]:
        raise ConfigError(
            f"the checkpoint is of step {checkpoint['global_step']}, and trainer.max_steps={max_steps}: set it higher"
        )
    used = checkpoint.get("callbacks", {}).get(Budget.__name__, {}).get("elapsed", 0.0)
    if max_time is not None and used >= seconds(max_time):
        raise ConfigError(f"the run has used {used:.0f} s, and trainer.max_time={max_time}: set it higher")


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Where two model configurations differ, as the overrides that would make `wanted` what was found.

    But for the quantiser of training: it has no weights, and may change on the way."""
    found, wanted = flat(found), flat(wanted)
    keys = [key for key in found | wanted if not key.startswith("quantizer.")]
    return [f"model.{key}={found.get(key)}" for key in keys if found.get(key) != wanted.get(key)]


def initialise(model: Trainable, name_or_path: str) -> None:
    """Give `model` the weights of a checkpoint, averaged ones where it has them, of a model file or a shipped model.

    Raises ConfigError if it cannot be read, or is of another model."""
    try:
        if isinstance(model, PeerModel):
            model.start_from(*model_file.read_checkpoint(name_or_path)[:2])
            return
        read = model_file.from_checkpoint if name_or_path.endswith(".ckpt") else model_file.load
        found = read(name_or_path)
    except (model_file.ModelError, ConfigError) as error:
        raise ConfigError(f"init_from={name_or_path}: {error}") from error
    if different := differences(found.config, model.config):
        raise ConfigError(f"init_from={name_or_path} is another model: it has {' '.join(different)}")
    model.load_state_dict(found.weights)
