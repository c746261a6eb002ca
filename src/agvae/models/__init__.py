"""The AG-VAE model and its parts."""

from agvae.models.agvae import AGVAE
from agvae.models.gain import GainUnit
from agvae.models.outputs import Output

__all__ = ["AGVAE", "GainUnit", "Output"]
