"""Pictures to bytes and back."""

from importlib import import_module
from typing import TYPE_CHECKING

from agvae.codec.bitstream import BitstreamError

if TYPE_CHECKING:
    from agvae.codec.codec import Codec
    from agvae.codec.model_file import ModelError
    from agvae.codec.opening import codec_for, open_codec
    from agvae.codec.rate_control import TargetError

__all__ = ["BitstreamError", "Codec", "ModelError", "TargetError", "codec_for", "open_codec"]

_HOMES = {
    "Codec": "codec",
    "ModelError": "model_file",
    "TargetError": "rate_control",
    "codec_for": "opening",
    "open_codec": "opening",
}


def __getattr__(name: str):
    # These import torch, which is not needed to see that a file is not an .agv file.
    if name in _HOMES:
        return getattr(import_module(f"agvae.codec.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'agvae.codec' has no attribute {name!r}")
