"""The codec that a command needs, from the name or file of a model, or from the file that it decodes."""

from collections.abc import Callable
from pathlib import Path

import torch

from agvae.codec import model_file
from agvae.codec.bitstream import BitstreamError
from agvae.codec.codec import Codec
from agvae.errors import ConfigError, DataError


def open_codec(name_or_path: str, device: str = "cpu") -> Codec:
    """The codec of a shipped model, a .safetensors file, a folder of `Codec.save_pretrained` or a training checkpoint.

    Raises ConfigError if the device is not available or has no exact float64, and DataError if the model cannot be
    used."""
    _check_device(device)
    load: Callable[..., Codec]
    if name_or_path.endswith(".ckpt"):
        load = Codec.from_checkpoint
    else:
        load = Codec.from_pretrained if Path(name_or_path).is_dir() else Codec.load
    try:
        return load(name_or_path, device)
    except (OSError, ValueError) as error:
        raise DataError(str(error)) from error


def codec_for(fingerprint: bytes, device: str = "cpu") -> Codec:
    """The codec of the shipped model with the fingerprint that the header of a file gives.

    Raises ConfigError for a device as `open_codec` does, and BitstreamError if no shipped model has that fingerprint.
    """
    _check_device(device)
    found = model_file.find(fingerprint)
    if found is None:
        raise BitstreamError(
            f"made by the model {fingerprint.hex()}, which is not included in agvae; pass its model file with --model"
        )
    name, model = found
    return Codec(model, name, device)


def _check_device(device: str) -> None:
    """Raise ConfigError if the device is not available."""
    try:
        torch.zeros(1, dtype=torch.float64, device=device).cpu()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(f"device {device} cannot be used: {str(error).splitlines()[0].partition('. ')[0]}") from None
