"""The AG-VAE model and its parts."""

from agvae.models.agvae import AGVAE, Output
from agvae.models.gain import GainUnit

__all__ = ["AGVAE", "GainUnit", "Output"]
