"""Drawings of the paper's figures 2 to 6, from arrays. Figure 1 and RD plots are in `agvae.reporting.figures`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from agvae.reporting.boxes import Box
from agvae.reporting.figures import INK, dress, new_figure, plain_log_ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BARS, _BAR_EDGES = "#d7dce2", "#b4bcc6"
_ASYMMETRIC, _SYMMETRIC = "#d6261d", "#0072b2"
_LEFT, _RIGHT = "#7a2fb5", "#e69f00"
BOX_COLOURS = ("#ffd400", "#ff3fa4", "#00d5ff", "#7dff3a")


class ModelCurve(NamedTuple):
    """A model over a histogram: its name, whether it is symmetric, and the shares that it expects at `x`."""

    label: str
    symmetric: bool
    x: np.ndarray
    shares: np.ndarray


class Histogram(NamedTuple):
    """Values whose histogram is drawn, in bins of width 1 centred on the integers, with models over it."""

    label: str
    values: np.ndarray
    curves: Sequence[ModelCurve]


class LatentRow(NamedTuple):
    """One row of figure 2: two histograms and the variances (elements,) of each side. sigma_r² is None if symmetric."""

    title: str
    histograms: tuple[Histogram, Histogram]
    variance_l: np.ndarray
    variance_r: np.ndarray | None


def latent_figure(rows: Sequence[LatentRow]) -> Figure:
    """Figure 2: the histogram of a channel of the latent, models over it, and the distribution of their variances."""
    figure = new_figure(13, 4.0 * len(rows))
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, row in zip(parts, rows, strict=True):
        part.suptitle(row.title, x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")
        *left, right = part.subplots(1, 3, width_ratios=(1.15, 1.15, 1))
        for axes, histogram in zip(left, row.histograms, strict=True):
            _draw_histogram(axes, histogram)
        _draw_variances(right, row.variance_l, row.variance_r)
    return figure


def _draw_histogram(axes, histogram: Histogram) -> None:
    values = np.round(histogram.values)
    # Rare values far out would leave no room for the others.
    low, high = np.quantile(values, (0.01, 0.99))
    bins, counts = np.unique(values, return_counts=True)
    shares = counts / counts.sum()
    bars = axes.bar(bins, shares, width=1, color=_BARS, edgecolor=_BAR_EDGES, linewidth=0.5, label="this picture")
    lines = []
    for curve in histogram.curves:
        style = {"color": _SYMMETRIC, "linestyle": (0, (5, 2))} if curve.symmetric else {"color": _ASYMMETRIC}
        lines += axes.plot(curve.x, curve.shares, linewidth=1.9, label=curve.label, **style)
    axes.set_xlim(low - 1.5, high + 1.5)
    axes.set_ylim(0, 1.38 * max(shares.max(), *(curve.shares.max() for curve in histogram.curves)))
    dress(axes, "", histogram.label, "share of elements")
    axes.legend(handles=[bars, *lines], loc="upper left", frameon=False, fontsize=9, labelcolor=INK)


def _draw_variances(axes, left: np.ndarray, right: np.ndarray | None) -> None:
    both = left if right is None else np.concatenate((left, right))
    edges = np.geomspace(both.min() / 1.1, both.max() * 1.1, 41)
    sides = (
        [(left, r"$\sigma^2$", _SYMMETRIC)]
        if right is None
        else [(left, r"$\sigma_l^2$", _LEFT), (right, r"$\sigma_r^2$", _RIGHT)]
    )
    for variance, label, color in sides:
        weights = np.full(len(variance), 1 / len(variance))
        label = f"{label}, median {np.median(variance):.3g}"
        style = {"bins": edges, "weights": weights, "color": color}
        axes.hist(variance, histtype="stepfilled", alpha=0.16, **style)
        axes.hist(variance, histtype="step", linewidth=1.7, label=label, **style)
    axes.set_xscale("log")
    if edges[-1] < 300 * edges[0]:
        plain_log_ticks(axes.xaxis)
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
    dress(axes, "", "variance", "share of elements")
    axes.legend(loc="upper left", frameon=False, fontsize=9, labelcolor=INK)


class Decoded(NamedTuple):
    """A picture (H, W, 3) uint8 decoded by a codec, and the lines of text below it."""

    name: str
    image: np.ndarray
    lines: Sequence[str]


def comparison_figure(original: np.ndarray, decoded: Sequence[Decoded], boxes: Sequence[Box], title: str) -> Figure:
    """Figures 3 to 6: a picture with boxes, and beside it the content of the boxes as each codec decodes it.

    Boxes are drawn at equal width, and pixels as squares, without smoothing."""
    from matplotlib.patches import Rectangle

    columns = [Decoded("original", original, ()), *decoded]
    side, gap, text, margin, heading = 1.9, 0.08, 0.75, 0.1, 0.36  # inches
    heights = [side * box.height / box.width for box in boxes]
    tall = sum(heights) + gap * (len(boxes) - 1)
    large = tall * original.shape[1] / original.shape[0]
    width = 2 * margin + large + len(columns) * (gap + side)
    height = heading + tall + text
    figure = new_figure(width, height, dpi=200, layout=None)

    def place(image: np.ndarray, x: float, y: float, w: float, h: float):
        """Axes with their upper left corner at (x, y), inches from that of the figure."""
        axes = figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))
        axes.imshow(image, interpolation="none", aspect="auto")
        axes.set(xticks=[], yticks=[])
        return axes

    whole = place(original, margin, heading, large, tall)
    whole.spines[:].set_visible(False)
    figure.text(margin / width, 1 - 0.1 / height, title, va="top", color=INK, fontsize=12, fontweight="bold")
    for box, color in zip(boxes, BOX_COLOURS, strict=False):
        corner = (box.x - 0.5, box.y - 0.5)
        whole.add_patch(Rectangle(corner, box.width, box.height, fill=False, edgecolor=color, linewidth=1.8))
    for column, (name, image, lines) in enumerate(columns):
        left, top = margin + large + gap + column * (side + gap), heading
        for box, tall_box, color in zip(boxes, heights, BOX_COLOURS, strict=False):
            axes = place(box.of(image), left, top, side, tall_box)
            axes.spines[:].set(color=color, linewidth=1.8)
            top += tall_box + gap
        x, y = (left + side / 2) / width, 1 - top / height
        figure.text(x, y, name, ha="center", va="top", color=INK, fontsize=10, fontweight="bold")
        figure.text(x, y - 0.19 / height, "\n".join(lines), ha="center", va="top", color=INK, fontsize=9.5)
    return figure
