"""Densities, coding tables and the coder: three things, kept apart."""

from agvae.entropy.densities import likelihood

__all__ = ["likelihood"]
