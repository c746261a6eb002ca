"""`agvae import-compressai`: turns a checkpoint of CompressAI into one of agvae, to start training from."""

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agvae.cli.streams import say
from agvae.errors import ConfigError, DataError

if TYPE_CHECKING:
    from agvae.models import AGVAE


def import_compressai(options: argparse.Namespace) -> None:
    """Write a checkpoint at step 0, and print how to train it further."""
    import torch

    from agvae.files import write_atomically
    from agvae.models.from_compressai import from_compressai

    if options.output.suffix != ".ckpt":
        raise ConfigError(f"{options.output}: the output must have the suffix .ckpt")
    try:
        model = from_compressai(_state_dict(options.checkpoint))
    except ValueError as error:
        raise DataError(f"{options.checkpoint}: {error}") from error
    state = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    file = io.BytesIO()
    torch.save({"hyper_parameters": {"model": model.config}, "state_dict": state, "global_step": 0}, file)
    write_atomically(options.output, file.getbuffer())
    say(f"{options.output}: to train it further, for a λ of your choice, run")
    say(f"python train.py init_from={options.output} {_overrides(model)} loss.lambdas=[0.0067]")


def _state_dict(path: Path) -> dict[str, Any]:
    """CompressAI's weights by its names, from a bare state dict, a file of its example trainer, or a checkpoint of
    agvae.

    Raises DataError for any other file."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        weights = content.get("ema") or content.get("state_dict", content)
        return {name.removeprefix("model.").removeprefix("net."): weight for name, weight in weights.items()}
    except FileNotFoundError:
        raise DataError("no such file") from None
    except Exception as error:  # torch.load raises almost anything on a foreign file
        raise DataError(f"must be a checkpoint of CompressAI ({type(error).__name__})") from error


def _overrides(model: "AGVAE") -> str:
    """The overrides that give the model of train.py the structure of this one."""
    choices = [f"model/{part}={model.config[part]['name']}" for part in ("transforms", "gain", "entropy", "context")]
    widths = {f"transforms.{key}": model.config["transforms"][key] for key in ("N", "M")}
    widths |= {f"context.{key}": value for key, value in model.config["context"].items() if key == "width"}
    return " ".join([*choices, *(f"model.{key}={value}" for key, value in widths.items())])
