"""Asymmetric gained deep image compression: train, evaluate and use one model for every rate."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from agvae.threads import survive_forks, wait_passively

if TYPE_CHECKING:
    from agvae.codec import BitstreamError, Codec, ModelError, TargetError

survive_forks()
wait_passively()  # before any module of the package loads torch
__version__ = version("agvae")
__all__ = ["BitstreamError", "Codec", "ModelError", "TargetError", "__version__"]


def __getattr__(name: str):
    # The codec imports torch. `agvae --help` should not wait for that.
    if name in __all__:
        from agvae import codec

        return getattr(codec, name)
    raise AttributeError(f"module 'agvae' has no attribute {name!r}")
