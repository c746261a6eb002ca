"""Start from an earlier run: go on after its checkpoint, or begin with its weights."""

from pathlib import Path
from typing import Any

import torch

from agvae.codec import model_file
from agvae.errors import ConfigError
from agvae.facts import flat
from agvae.models.peers import PeerModel
from agvae.models.trainable import Trainable
from agvae.training.directories import LAST


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


def check_resumable(checkpoint: dict[str, Any], model: dict[str, Any], max_steps: int) -> None:
    """Raise ConfigError if the checkpoint holds another model than the one configured, or has no step left to take."""
    different = differences(checkpoint["hyper_parameters"]["model"], model)
    if different:
        raise ConfigError(f"the checkpoint's model has {' '.join(different)}: resume with the options it began with")
    if 0 <= max_steps <= checkpoint["global_step"]:
        raise ConfigError(
            f"the checkpoint is of step {checkpoint['global_step']}, and trainer.max_steps={max_steps}: set it higher"
        )


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
