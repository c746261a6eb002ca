"""Rate-distortion curves: means over images, the field's JSON schema, and the BD-rate between two of them."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agvae.files import write_atomically
from agvae.metrics import ms_ssim_db

METRICS = ("psnr-rgb", "ms-ssim-rgb")
RESULTS = ("bpp", *METRICS, "encoding_time", "decoding_time")


@dataclass(frozen=True)
class Curve:
    """A codec's mean results over a data set, one entry per quality.

    `results` maps "bpp" (bits per pixel), "psnr-rgb" (dB), "ms-ssim-rgb" ([0, 1]), "encoding_time" and "decoding_time"
    (s) to lists of equal length. An agvae model also has "quality" and "estimated_bpp" (the model's own rate). NaN
    stands for a missing value. A published curve also has `kind` ("codec", "learned fixed" or "learned variable"), the
    metric it was `optimized_for`, and its `source`."""

    name: str
    description: str
    results: Mapping[str, list[float]]
    kind: str | None = None
    optimized_for: str | None = None
    source: str | None = None

    @property
    def is_ours(self) -> bool:
        """Whether the curve is that of an agvae model."""
        return "quality" in self.results

    @classmethod
    def from_dict(cls, curve: Mapping[str, Any]) -> "Curve":
        """The curve in a dictionary of the JSON schema. Unknown keys are ignored."""
        results = {
            key: [math.nan if value is None else float(value) for value in values]
            for key, values in curve["results"].items()
        }
        labels = {key: curve.get(key) for key in ("kind", "optimized_for", "source")}
        return cls(curve["name"], curve.get("description", ""), results, **labels)

    def to_dict(self) -> dict[str, Any]:
        """The dictionary of the JSON schema. Values that are not finite become null, because JSON has no other word for
        them."""
        labels = {"kind": self.kind, "optimized_for": self.optimized_for, "source": self.source}
        results = {key: [finite_or_none(value) for value in values] for key, values in self.results.items()}
        return {
            "name": self.name,
            "description": self.description,
            **{key: value for key, value in labels.items() if value is not None},
            "results": results,
        }


def read_curve(path: Path) -> Curve:
    """The curve in a JSON file of the field's schema."""
    return Curve.from_dict(json.loads(Path(path).read_text()))


def write_curve(curve: Curve, path: Path) -> None:
    """Write `curve` as a JSON file of the field's schema."""
    write_atomically(path, f"{json.dumps(curve.to_dict(), indent=2, allow_nan=False)}\n".encode())


def mean_curve(rows: Iterable[Mapping[str, Any]], name: str, description: str, ours: bool = False) -> Curve:
    """The means over images of the rows of codec `name`, in the order in which its qualities first appear.

    A NaN is left out of its mean. If every image has NaN at a quality, the mean is NaN."""
    by_quality: dict[float, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["codec"] == name:
            by_quality.setdefault(row["quality"], []).append(row)
    keys = [*RESULTS, "estimated_bpp"] if ours else RESULTS
    results = {key: [_mean([row[key] for row in group]) for group in by_quality.values()] for key in keys}
    if ours:
        results["quality"] = [float(quality) for quality in by_quality]
    return Curve(name, description, results)


def _mean(values: list[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def finite_or_none(value: float) -> float | None:
    """`value`, or None when it is NaN or infinite."""
    return value if math.isfinite(value) else None


def slug(name: str) -> str:
    """`name` as a file name: lower-case letters, digits, dots, underscores and single hyphens.

    >>> slug("AG-VAE (MSE), 6 levels")
    'ag-vae-mse-6-levels'
    """
    return re.sub(r"[^a-z0-9._]+", "-", name.lower()).strip("-.") or "unnamed"


class BDRate(NamedTuple):
    """A BD-rate, or the reason why there is none.

    `percent` is the mean difference in rate at equal quality. It is negative if the test codec needs fewer bits. `low`
    and `high` bound the common range of quality, in dB. All three are None if there is no BD-rate; then `reason` says
    why."""

    percent: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


def bd_rate(anchor: Curve, test: Curve, metric: str = "psnr-rgb") -> BDRate:
    """BD-rate of `test` against `anchor`: log rate over quality in dB, interpolated piecewise cubic (PCHIP).

    `metric` is one of `METRICS`; MS-SSIM is compared as −10·log10(1 − MS-SSIM).
    """
    try:
        anchor_rate, anchor_db = _rising_points(anchor, metric, "the anchor")
        test_rate, test_db = _rising_points(test, metric, test.name)
    except ValueError as error:
        return BDRate(reason=str(error))
    low, high = max(anchor_db[0], test_db[0]), min(anchor_db[-1], test_db[-1])
    if low >= high:
        span = f"{test_db[0]:.2f} to {test_db[-1]:.2f} dB"
        return BDRate(reason=f"{test.name} covers {span}, where the anchor has nothing")

    from bjontegaard import bd_rate as pchip_bd_rate  # imports pyplot, which few callers need

    percent = pchip_bd_rate(
        anchor_rate,
        anchor_db,
        test_rate,
        test_db,
        method="pchip",
        require_matching_points=False,
        min_overlap=0,  # the common range is returned instead of a warning
    )
    return BDRate(float(percent), float(low), float(high))


def quality_db(curve: Curve, metric: str) -> np.ndarray:
    """The curve's `metric` on a dB scale, one value per point. NaN if there is none."""
    values = curve.results.get(metric) or [math.nan] * len(curve.results["bpp"])
    return np.array([ms_ssim_db(value) for value in values] if metric == "ms-ssim-rgb" else values)


def pchip(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The monotone cubic through (x, y), as BD-rates use it, at other x. NaN outside the range, and everywhere if x
    does not rise. Points that are not finite are left out."""
    from scipy.interpolate import PchipInterpolator

    finite = np.isfinite(x) & np.isfinite(y)
    x, y = np.asarray(x)[finite], np.asarray(y)[finite]
    if len(x) < 2 or (np.diff(x) <= 0).any():
        return np.full(len(at), math.nan)
    return PchipInterpolator(x, y, extrapolate=False)(at)


def loss_between_levels(curve: Curve, metric: str = "psnr-rgb") -> tuple[np.ndarray, np.ndarray]:
    """The qualities of a model's curve that lie between trained levels, and the loss of each, in dB at equal rate.

    The loss is measured against the PCHIP curve of log bpp through the levels, and is NaN outside its range. Both are
    empty for a curve without such qualities."""
    quality, rate, db = (
        np.array(curve.results.get("quality", [])),
        np.log(curve.results["bpp"]),
        quality_db(curve, metric),
    )
    if not quality.size:
        return quality, quality
    level = quality % 1 == 0
    return quality[~level], pchip(rate[level], db[level], rate[~level]) - db[~level]


def _rising_points(curve: Curve, metric: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Finite rates (bpp) and qualities (dB) by rising rate. Raises ValueError if quality does not rise."""
    points = {
        (rate, db)
        for rate, db in zip(curve.results["bpp"], quality_db(curve, metric), strict=True)
        if math.isfinite(rate) and math.isfinite(db)
    }
    if not points:
        raise ValueError(f"{name} has no {metric}")
    if len(points) == 1:
        raise ValueError(f"{name} has one point, but a curve needs two")
    rate, db = np.array(sorted(points)).T
    falls = np.flatnonzero((np.diff(db) <= 0) | (np.diff(rate) <= 0))
    if falls.size:
        i = falls[0]
        raise ValueError(
            f"{name} does not rise: {rate[i]:.4f} bpp gives {db[i]:.3f} dB but {rate[i + 1]:.4f} bpp {db[i + 1]:.3f} dB"
        )
    return rate, db
