"""Evaluation: metrics on 8-bit images, rate-distortion curves, BD-rate, and codecs to compare with."""

from agvae.evaluation.classical import CLASSICAL_CODECS, MissingCodecError, at_rate
from agvae.evaluation.external import CODEC_NAMES, available_codecs, classical_codec
from agvae.evaluation.rd import METRICS, BDRate, Curve, bd_rate, quality_db, read_curve, slug, write_curve
from agvae.evaluation.reference import KODAK_IMAGES, PUBLISHED_AS, background_curves, published_curves, stand_in
from agvae.evaluation.runner import Evaluation, ModelCodec, evaluate_codecs
from agvae.evaluation.summary import bd_rate_notes, bd_rate_table, bd_rates, curve_table
from agvae.metrics import ms_ssim, ms_ssim_db, psnr

__all__ = [
    "CLASSICAL_CODECS",
    "CODEC_NAMES",
    "KODAK_IMAGES",
    "METRICS",
    "PUBLISHED_AS",
    "BDRate",
    "Curve",
    "Evaluation",
    "MissingCodecError",
    "ModelCodec",
    "at_rate",
    "available_codecs",
    "background_curves",
    "bd_rate",
    "bd_rate_notes",
    "bd_rate_table",
    "bd_rates",
    "classical_codec",
    "curve_table",
    "evaluate_codecs",
    "ms_ssim",
    "ms_ssim_db",
    "psnr",
    "published_curves",
    "quality_db",
    "read_curve",
    "slug",
    "stand_in",
    "write_curve",
]
