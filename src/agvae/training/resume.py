"""Starts from an earlier run: resumes from its checkpoint, or begins with its weights."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.pytorch.utilities.rank_zero import rank_zero_only
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

log = logging.getLogger(__name__)

SECTIONS = {
    "g_a": ("transforms",),
    "g_s": ("transforms",),
    "h_a": ("transforms",),
    "h_s": ("transforms", "entropy", "context"),
    "context": ("transforms", "entropy", "context"),
    "prior": ("transforms",),
    "gain": ("transforms", "gain"),
    "hyper_gain": ("transforms", "gain"),
}
"""By part of an AG-VAE, the sections of its configuration that decide what its weights mean."""


def load_checkpoint(ckpt_path: str | None, run_dir: Path) -> tuple[Path | None, dict[str, Any]]:
    """Path and content of the checkpoint that `ckpt_path` names: a file or, for `last`, the last one of `run_dir`.

    (None, {}) for None. Raises ConfigError if it is missing or is not a checkpoint."""
    if ckpt_path is None:
        return None, {}
    path = run_dir / LAST if ckpt_path == "last" else Path(ckpt_path)
    if not path.is_file():
        what = "there is no run with a checkpoint" if ckpt_path == "last" else "there is no such file"
        raise ConfigError(f"ckpt_path={ckpt_path}: {what}; give the path of a checkpoint, or leave ckpt_path out")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        content["hyper_parameters"], content["loops"]
    except Exception as error:  # torch raises almost anything for a file that is no checkpoint
        raise ConfigError(f"ckpt_path must be a training checkpoint of agvae, not {path}") from error
    return path, content


def continued(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run that a command resumes: the saved one, with the given options laid over it.

    A program that calls `agvae.engine.train` gives a complete configuration, which is not changed."""
    if config["ckpt_path"] is None or not HydraConfig.initialized():
        return config
    ckpt_path = config["ckpt_path"]
    run = Path(config["run_dir"]) if ckpt_path == "last" else Path(ckpt_path).parents[1]
    try:
        saved: Any = OmegaConf.to_container(OmegaConf.load(run / CONFIG))
    except (OSError, YAMLError):
        return config  # the run is of an earlier version, or its checkpoint was moved
    saved.pop("environment", None)
    defaults: Any = OmegaConf.to_container(compose("train", [f"run_dir='{config['run_dir']}'"]), resolve=True)
    return laid_over(saved, config, defaults, HydraConfig.get().overrides.task)


def laid_over(
    saved: dict[str, Any], config: dict[str, Any], defaults: dict[str, Any], given: Sequence[str]
) -> dict[str, Any]:
    """A saved configuration in which a command's options, `given`, replace values.

    `config` is composed of the defaults and these options. They replace the keys that they name, all keys of a group
    whose option they choose, and the keys in which `config` differs from `defaults`, as after experiment=NAME."""
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


def check_resumable(
    checkpoint: dict[str, Any],
    model: dict[str, Any],
    frozen: Sequence[str],
    max_steps: int,
    max_time: str | None,
) -> None:
    """Raise ConfigError if the checkpoint holds another model than the one configured, or the run has no steps left.

    A resumed run also keeps its frozen parts, since the optimiser has no state for them."""
    different = differences(checkpoint["hyper_parameters"]["model"], model)
    if different:
        raise ConfigError(
            f"a resumed run must keep {' '.join(different)}: remove these options, or start a new run without ckpt_path"
        )
    before = checkpoint["hyper_parameters"].get("freeze", [])  # earlier versions froze nothing
    if {*before} != {*frozen}:
        raise ConfigError(f"a resumed run must keep freeze=[{','.join(before)}], not [{','.join(frozen)}]")
    if 0 <= max_steps <= checkpoint["global_step"]:
        raise ConfigError(
            f"trainer.max_steps must be above {checkpoint['global_step']}, the step of the checkpoint, not {max_steps}"
        )
    used = checkpoint.get("callbacks", {}).get(Budget.__name__, {}).get("elapsed", 0.0)
    if max_time is not None and used >= seconds(max_time):
        raise ConfigError(f"the run has used {used:.0f} s, and trainer.max_time={max_time}: set it higher")


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """The differences between two model configurations, as the overrides that would turn `wanted` into the other one.

    The training quantiser does not count: it has no weights and may change during training."""
    found, wanted = flat(found), flat(wanted)
    keys = [key for key in found | wanted if not key.startswith("quantizer.")]
    return [f"model.{key}={found.get(key)}" for key in keys if found.get(key) != wanted.get(key)]


def initialise(model: Trainable, name_or_path: str, anew: Sequence[str] = ()) -> None:
    """Load weights into `model`: of a checkpoint (averaged ones if it has them), a model file or a shipped model.

    The parts named in `anew` keep the weights that they have. Raises ConfigError if the source cannot be read, or
    differs in a section of the configuration that another part depends on."""
    try:
        if isinstance(model, PeerModel):
            model.start_from(*model_file.read_checkpoint(name_or_path)[:2])
            return
        read = model_file.from_checkpoint if name_or_path.endswith(".ckpt") else model_file.load
        found = read(name_or_path)
    except (model_file.ModelError, ConfigError) as error:
        raise ConfigError(f"init_from={name_or_path}: {error}") from error
    taken = [name for name, _ in model.named_children() if name not in anew]
    needed = {section for name in taken for section in SECTIONS[name]}
    different = [
        change for change in differences(found.config, model.config) if change.split(".")[1].split("=")[0] in needed
    ]
    if different:
        raise ConfigError(
            f"init_from={name_or_path} is another model: it has {' '.join(different)}; "
            "parts that depend on this can start anew with init_except=[…]"
        )
    weights = {name: value for name, value in found.weights.items() if name.partition(".")[0] in taken}
    model.load_state_dict({**model.state_dict(), **weights})
    _say("from %s: %s; anew: %s", name_or_path, ", ".join(taken), ", ".join(anew) or "nothing")


@rank_zero_only
def _say(message: str, *values: object) -> None:
    log.info(message, *values)
