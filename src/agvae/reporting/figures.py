"""Figures: rate-distortion plots, gain vectors, the distribution of bits, decoded pictures.

Matplotlib is imported when a figure is drawn, and no display is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from agvae.evaluation import Curve, quality_db
from agvae.metrics import psnr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AXIS = {"psnr-rgb": "PSNR, RGB (dB)", "ms-ssim-rgb": "MS-SSIM, RGB: −10·log₁₀(1 − MS-SSIM) (dB)"}
_SHORT = {"psnr-rgb": "PSNR", "ms-ssim-rgb": "MS-SSIM"}
_LOG_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
_NO_RATE = 1e-5  # bpp; a channel below has fewer than 8 bits in a picture of 768×512
INK, _GRID = "#22262b", "#e3e6ea"
_OURS = ("#d6261d", "#7a2fb5", "#00796b")
# Okabe and Ito's palette without its red, which colour-blind readers can distinguish too.
_MEASURED = ("#0072b2", "#e69f00", "#009e73", "#56b4e9", "#cc79a7", "#8c6d31")
_PUBLISHED = ("#3f4750", "#7d8791", "#a9773f", "#5b7fa6", "#7f9a63", "#9a7fa6", "#b0a040", "#5fa0a0")
_DASHES = ((0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))


def rd_figure(curves: Sequence[Curve], metric: str, published: Sequence[Curve] = (), title: str = "") -> Figure:
    """A rate-distortion plot of `metric` ("psnr-rgb" or "ms-ssim-rgb", the latter in dB) over bits per pixel.

    An agvae model (`Curve.is_ours`) is on top, with dots at its trained levels. The line between the dots is the same
    model at intermediate qualities. Other codecs of the run are thinner lines, and `published` curves are dashed. The
    axes show the model's own range with a margin. The rate is logarithmic if it varies by more than 8 to 1.
    Points without the metric are left out."""
    figure = new_figure(9, 5.2)
    front, beside, behind = _draw_rd(figure.add_subplot(), curves, metric, published, title)
    _legend(figure, {"this run": [*front, *beside], "published": behind}, "outside right upper")
    return figure


def rd_pair_figure(
    curves: Sequence[Curve], published: Mapping[str, Sequence[Curve]], title: str = "", small: Sequence[Curve] = ()
) -> Figure:
    """Two rate-distortion plots side by side: PSNR, and MS-SSIM in dB, as `rd_figure` draws them.

    `published` has the background curves by metric. `small` are those of our models that are drawn as thin lines. A
    model trained for MS-SSIM (`optimized_for` "ms-ssim") is left out of the PSNR plot."""
    figure = new_figure(13, 5.6)
    groups: dict[str, dict[str, Any]] = {}
    for axes, metric in zip(figure.subplots(1, 2), published, strict=True):
        shown = [
            [curve for curve in group if metric == "ms-ssim-rgb" or curve.optimized_for != "ms-ssim"]
            for group in (curves, small)
        ]
        parts = _draw_rd(axes, shown[0], metric, published[metric], f"{title}, {_SHORT[metric]}", small=shown[1])
        for heading, handles in zip(("agvae", "", "published"), parts, strict=True):
            groups.setdefault(heading, {}).update({handle.get_label(): handle for handle in handles})
    _legend(figure, {heading: [*handles.values()] for heading, handles in groups.items() if heading}, "outside right")
    return figure


def _legend(figure: Figure, groups: Mapping[str, Sequence[Any]], place: str) -> None:
    entries: list[Any] = []
    for heading, handles in groups.items():
        if handles:
            entries += [*([_heading("")] if entries else []), _heading(heading), *handles]
    legend = figure.legend(handles=entries, loc=place, frameon=False, fontsize=9, labelcolor=INK)
    for entry, text in zip(entries, legend.get_texts(), strict=True):
        if entry.get_linestyle() == "None":
            text.set_fontweight("bold")


def _draw_rd(
    axes, curves: Sequence[Curve], metric: str, published: Sequence[Curve], title: str, small: Sequence[Curve] = ()
) -> tuple[list[Any], list[Any], list[Any]]:
    """Draw one plot. Returns the lines of our models, of the run's other codecs, and of the published curves."""
    from matplotlib.ticker import FixedLocator, NullLocator

    ours = [curve for curve in curves if curve.is_ours]
    others = [curve for curve in curves if not curve.is_ours]

    # Drawn from back to front, listed from front to back.
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
    front += [
        _draw(axes, curve, metric, color, linewidth=1.0, marker="o", markersize=2.5)
        for curve, color in zip(small, cycle(_OURS), strict=False)
    ]

    points = [_points(curve, metric) for curve in [*ours, *small] or others or published]
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

    dress(axes, title, "bits per pixel, whole file", _AXIS[metric])
    return front, beside, behind


def gain_figure(gains: np.ndarray, inverses: np.ndarray, title: str = "") -> Figure:
    """Gain vectors m and m′ over channels (AG-VAE, figure 1): two (n, C) arrays, one line for each of n levels."""
    figure = new_figure(9, 5.6)
    above, below = figure.subplots(2, sharex=True)
    for axes, vectors, heading, symbol in ((above, gains, title, "gain m"), (below, inverses, "", "inverse gain m′")):
        for level, (vector, color) in enumerate(zip(vectors, _rising_colors(len(vectors)), strict=True)):
            axes.plot(vector, color=color, linewidth=1.2, label=f"level {level}")
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis)
        axes.set_xlim(0, max(1, gains.shape[1] - 1))
        dress(axes, heading, "", symbol)
    below.set_xlabel("channel", color=INK)
    _level_legend(figure, above)
    return figure


def channel_rate_figure(rates: np.ndarray, title: str = "") -> Figure:
    """The distribution of bits: the rate (bpp) of each channel of y, largest first.

    `rates` is (n, C). Each of the n levels is a line."""
    figure = new_figure(9, 4.6)
    axes = figure.add_subplot()
    for level, (rate, color) in enumerate(zip(rates, _rising_colors(len(rates)), strict=True)):
        axes.plot(np.sort(rate)[::-1], color=color, linewidth=1.7, label=f"level {level}, {rate.sum():.3f} bpp")
    axes.set_yscale("log")
    axes.set_xlim(0, max(1, rates.shape[1] - 1))
    axes.set_ylim(bottom=_NO_RATE)
    dress(axes, title, "channel of y, by falling rate", "bits per pixel")
    _level_legend(figure, axes)
    return figure


def _level_legend(figure: Figure, axes) -> None:
    """The legend of lines by level, with the highest level on top."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper", frameon=False, fontsize=9, labelcolor=INK)


ERROR_RANGE = 32
"""Absolute error, out of 255, that every error map shows in its brightest colour."""


def reconstruction_figure(
    original: np.ndarray, decoded: Sequence[np.ndarray], labels: Sequence[str], title: str = ""
) -> Figure:
    """A picture, its reconstructions, and below each its error map, pixel for pixel: (H, W, 3) uint8 arrays.

    The error is the mean over colours of |x̂ − x|, black at 0 and brightest at `ERROR_RANGE`. The label and the PSNR
    are below each reconstruction."""
    height, width = original.shape[:2]
    gap, text, dpi = 8, 40, 100
    pixels = (gap + (width + gap) * (1 + len(decoded)), text + 2 * (height + text) + gap)
    figure = new_figure(pixels[0] / dpi, pixels[1] / dpi, dpi=dpi, layout=None)

    def place(image: np.ndarray, column: int, row: int, caption: str, **style: object) -> None:
        left, bottom = gap + column * (width + gap), pixels[1] - text - row * (height + text) - height
        box = (left / pixels[0], bottom / pixels[1], width / pixels[0], height / pixels[1])
        axes = figure.add_axes(box)
        axes.imshow(image, interpolation="none", aspect="auto", **style)
        axes.set_axis_off()
        axes.text(0, -0.02, caption, transform=axes.transAxes, va="top", fontsize=10, color=INK)

    figure.text(gap / pixels[0], 1 - 8 / pixels[1], title, va="top", fontsize=12, fontweight="bold", color=INK)
    place(original, 0, 0, "original")
    for column, (image, label) in enumerate(zip(decoded, labels, strict=True), start=1):
        error = np.abs(image.astype(np.int16) - original).mean(axis=2)
        place(image, column, 0, f"{label}\n{psnr(original, image):.2f} dB in this crop")
        place(error, column, 1, f"error, 0 to {ERROR_RANGE} of 255", cmap="magma", vmin=0, vmax=ERROR_RANGE)
    return figure


def rendered(figure: Figure) -> np.ndarray:
    """The figure as an RGB picture, (H, W, 3) uint8."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def new_figure(width: float, height: float, dpi: int = 150, layout: str | None = "constrained") -> Figure:
    """An empty white figure of the given size in inches, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def dress(axes, title: str, x_label: str, y_label: str) -> None:
    """Title, labels, grid and colours, the same for all figures."""
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold")
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9aa1a9")
    axes.tick_params(colors=INK, labelsize=9)


def plain_log_ticks(axis) -> None:
    """Ticks for a logarithmic axis of few decades: 1, 2 and 5 of each, as plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def _rising_colors(count: int) -> list[tuple[float, ...]]:
    """Colours from dark to light for levels from low to high rate. The lightest of the map would not be visible on
    white."""
    from matplotlib import colormaps

    return [tuple(color) for color in colormaps["viridis"](np.linspace(0, 0.85, count))]


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
    """The quality (dB) of each curve at a rate (bpp), or at its own end. None for a curve that starts later."""
    heights = []
    for curve in curves:
        rates, db, _ = _points(curve, metric)
        order = np.argsort(rates)
        rates, db = rates[order], db[order]
        if rates.size and rates[0] <= rate:
            heights.append(float(np.interp(rate, rates, db)))
    return heights
