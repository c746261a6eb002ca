"""Figures: rate-distortion plots. Matplotlib is imported when one is drawn, and no display is needed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from agvae.evaluation import Curve, quality_db

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AXIS = {"psnr-rgb": "PSNR, RGB (dB)", "ms-ssim-rgb": "MS-SSIM, RGB: −10·log₁₀(1 − MS-SSIM) (dB)"}
_LOG_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
_INK, _GRID = "#22262b", "#e3e6ea"
_OURS = ("#d6261d", "#7a2fb5", "#00796b")
# Okabe and Ito's palette without its red: told apart by colour-blind readers too.
_MEASURED = ("#0072b2", "#e69f00", "#009e73", "#56b4e9", "#cc79a7", "#8c6d31")
_PUBLISHED = ("#3f4750", "#7d8791", "#a9773f", "#5b7fa6", "#7f9a63", "#9a7fa6", "#b0a040", "#5fa0a0")
_DASHES = ((0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))


def rd_figure(curves: Sequence[Curve], metric: str, published: Sequence[Curve] = (), title: str = "") -> Figure:
    """A rate-distortion plot of `metric` ("psnr-rgb" or "ms-ssim-rgb", the latter in dB) over bits per pixel.

    An agvae model (`Curve.is_ours`) is on top, with dots at its trained levels; the line between them is the
    same model at qualities in between. Other codecs of the run are thinner lines, and `published` curves are
    dashed. The axes show the model's own range with a margin; the rate is logarithmic when that is wider than
    one to eight. Points without the metric are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator

    figure = Figure(figsize=(9, 5.2), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ours = [curve for curve in curves if curve.is_ours]
    others = [curve for curve in curves if not curve.is_ours]

    # Drawn from the back to the front, listed from the front to the back.
    behind = [
        _draw(axes, curve, metric, color, linestyle=dash, linewidth=1.4)
        for curve, color, dash in zip(published, cycle(_PUBLISHED), cycle(_DASHES), strict=False)
    ]
    beside = [
        _draw(axes, curve, metric, color, linewidth=1.7) for curve, color in zip(others, cycle(_MEASURED), strict=False)
    ]
    front = [
        _draw(axes, curve, metric, color, linewidth=2.6, marker="o", markersize=6.5)
        for curve, color in zip(ours, cycle(_OURS), strict=False)
    ]

    points = [_points(curve, metric) for curve in ours or others or published]
    rate, db = (np.concatenate([point[axis] for point in points]) for axis in (0, 1))
    if rate.size:
        low, high = rate.min(), rate.max()
        if high > 8 * low:
            low, high = low / 1.25, high * 1.25
            axes.set_xscale("log")
            ticks = [tick for tick in _LOG_TICKS if low <= tick <= high]
            axes.xaxis.set_major_locator(FixedLocator(ticks))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter("{x:g}")
        else:
            margin = 0.15 * (high - low) or 0.15 * high
            low, high = max(0.0, low - margin), high + margin
        top = max([db.max(), *_heights(others + list(published), metric, high)])
        margin = 0.06 * (top - db.min()) or 1.0
        axes.set(xlim=(low, high), ylim=(db.min() - margin, top + margin))

    axes.set_xlabel("bits per pixel, whole file", color=_INK)
    axes.set_ylabel(_AXIS[metric], color=_INK)
    axes.set_title(title, loc="left", color=_INK, fontsize=12, fontweight="bold")
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9aa1a9")
    axes.tick_params(colors=_INK, labelsize=9)
    entries = [_heading("this run"), *front, *beside]
    if behind:
        entries += [_heading(""), _heading("published"), *behind]
    legend = figure.legend(handles=entries, loc="outside right upper", frameon=False, fontsize=9, labelcolor=_INK)
    for entry, text in zip(entries, legend.get_texts(), strict=True):
        if entry.get_linestyle() == "None":
            text.set_fontweight("bold")
    return figure


def _points(curve: Curve, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rates (bpp), qualities (dB), and which of them are trained levels, where both are finite."""
    rate, db = np.array(curve.results["bpp"]), quality_db(curve, metric)
    trained = np.array(curve.results.get("quality", rate)) % 1 == 0
    finite = np.isfinite(rate) & np.isfinite(db)
    return rate[finite], db[finite], trained[finite]


def _heading(text: str):
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="none", label=text)


def _draw(axes, curve: Curve, metric: str, color: str, **style):
    rate, db, trained = _points(curve, metric)
    return axes.plot(rate, db, label=curve.name, color=color, markevery=np.flatnonzero(trained).tolist(), **style)[0]


def _heights(curves: Sequence[Curve], metric: str, rate: float) -> list[float]:
    """Each curve's quality (dB) at a rate (bpp), or at its own end; none for a curve that starts later."""
    heights = []
    for curve in curves:
        order = np.argsort(_points(curve, metric)[0])
        rates, db = (values[order] for values in _points(curve, metric)[:2])
        if rates.size and rates[0] <= rate:
            heights.append(float(np.interp(rate, rates, db)))
    return heights
