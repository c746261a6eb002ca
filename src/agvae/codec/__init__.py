"""Pictures to bytes and back."""

from agvae.codec.bitstream import BitstreamError
from agvae.codec.codec import Codec
from agvae.codec.model_file import ModelError

__all__ = ["BitstreamError", "Codec", "ModelError"]
