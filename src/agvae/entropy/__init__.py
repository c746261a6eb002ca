"""Densities, coding tables and the coder: three separate things."""

from agvae.entropy.densities import likelihood

__all__ = ["likelihood"]
