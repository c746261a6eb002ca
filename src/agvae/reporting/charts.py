"""The charts of the report, as plotly figures: RD curves, learning curves, gain vectors.

Every chart is a dictionary of views, {name: figure}. Colours stand out from a white page and from a black one, so that
only the template changes with a reader's colour scheme.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb, label_rgb, sample_colorscale
from plotly.io import templates
from plotly.subplots import make_subplots

from agvae.evaluation import Curve, background_curves, quality_db
from agvae.metrics import ms_ssim_db
from agvae.reporting.choices import LAMBDAS, span
from agvae.reporting.collect import TrainingRun, finite
from agvae.reporting.compare import MeasuredModel, Model, Panel

Views = dict[str, go.Figure]

# Each RD view: the metric of its BD-rates, whether its values are drawn in dB, and the axis.
_RD_VIEWS = {
    "PSNR": ("psnr-rgb", True, "PSNR, RGB (dB)"),
    "MS-SSIM, dB": ("ms-ssim-rgb", True, "−10·log₁₀(1 − MS-SSIM) (dB)"),
    "MS-SSIM": ("ms-ssim-rgb", False, "MS-SSIM, RGB"),
}
_CURVES = {
    "val/loss": "Validation loss",
    "train/loss": "Training loss",
    "train/bpp": "Rate in training (bpp)",
    "train/psnr": "PSNR in training (dB)",
    "train/grad_norm": "Gradient norm",
}
_LEARNING_POINTS = 400
"""A longer learning curve is drawn as the means over this many equal stretches."""

COLORS = ("#2f7fd1", "#d9601a", "#0f8f6b", "#c2559f", "#a17a00", "#7d68d8", "#c9473f")
PUBLISHED_COLORS = ("#6f7d8c", "#9a7748", "#4d86ad", "#748a3d")
SYMBOLS = {"circle": "●", "square": "■", "diamond": "◆", "triangle-up": "▲", "cross": "✚", "x": "✖", "star": "★"}
"""Plotly's symbols, and the same symbols as characters."""
_LEVEL_SCALE = [label_rgb(hex_to_rgb(COLORS[i])) for i in (0, 5, 3, 1)]  # low to high rate
_DASHES = ("dash", "dashdot", "longdash")


class Style(NamedTuple):
    """The look of a model, which is the same everywhere on the page. No two share colour and symbol."""

    color: str
    symbol: str


def style_of(index: int) -> Style:
    """The look of the model with this `index`."""
    symbols = list(SYMBOLS)
    return Style(COLORS[index % len(COLORS)], symbols[(index + index // len(COLORS)) % len(symbols)])


def page_templates() -> dict[str, dict[str, Any]]:
    """Plotly's white and dark templates for the colour schemes "light" and "dark", on the page's own background."""
    found = {}
    for scheme, name in (("light", "plotly_white"), ("dark", "plotly_dark")):
        template = go.layout.Template(templates[name])
        template.layout.update(
            font={"family": "system-ui, sans-serif", "size": 13},
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            margin={"l": 8, "r": 8, "t": 34, "b": 8},  # the mode bar is above the legend
            modebar={"bgcolor": "rgba(0,0,0,0)", "remove": ["select2d", "lasso2d", "autoScale2d"]},
        )
        found[scheme] = template.to_plotly_json()
    return found


def _figure(traces: Sequence[go.Scatter], x: str, y: str, **axes: Any) -> go.Figure:
    figure = go.Figure(list(traces), layout={"template": "none", **axes})
    figure.update_xaxes(title_text=x)
    figure.update_yaxes(title_text=y)
    return figure


# ------------------------------------------------ rate and distortion


def rd_views(panel: Panel) -> Views:
    """RD curves of a panel: models on top with marks at their points, other codecs dotted, published ones dashed."""
    background = {c.name for metric in ("psnr-rgb", "ms-ssim-rgb") for c in background_curves(metric)}
    # Visible models come first, so that no two of them look alike.
    published = sorted(panel.published, key=lambda curve: curve.name not in background)
    views = {}
    for view, (metric, db, axis) in _RD_VIEWS.items():
        behind, beside = [], []
        for i, curve in enumerate(published):
            line: dict[str, Any] = {"color": PUBLISHED_COLORS[i % 4], "dash": _DASHES[i // 4 % 3], "width": 1.4}
            seen = True if curve.name in background else "legendonly"
            options: dict[str, Any] = {
                "uid": f"published-{curve.name}",
                "name": f"{curve.name}, published",
                "visible": seen,
            }
            behind.append(_rd_trace(curve, metric, db, curve.source or "", line=line, **options))
        for i, curve in enumerate(panel.codecs, len(panel.models)):
            line = {"color": style_of(i).color, "dash": "dot", "width": 1.6}
            options = {"uid": f"codec-{curve.name}", "legendrank": 2}
            beside.append(_rd_trace(curve, metric, db, "", line=line, **options))
        models = [_model_trace(measured, metric, db) for measured in panel.models]
        # From back to front. The legend lists them in reverse.
        traces = [trace for trace in (*behind, *beside, *models) if trace.x]
        own = [trace for trace in models if trace.x] or traces
        views[view] = _figure(traces, "bits per pixel", axis, **_rd_axes(own, traces))
    return views


def _model_trace(measured: MeasuredModel, metric: str, db: bool) -> go.Scatter:
    style = style_of(measured.model.index)
    trace = _rd_trace(
        measured.curve,
        metric,
        db,
        measured.notes,
        uid=f"model-{measured.model.index}",
        mode="lines+markers",
        line={"color": style.color, "width": 2.6},
        legendrank=1,
    )
    trained = [quality % 1 == 0 for quality in trace.customdata]
    trace.marker = {
        "symbol": [style.symbol if whole else f"{style.symbol}-open" for whole in trained],
        "size": [9 if whole else 6 for whole in trained],
    }
    return trace


def _rd_trace(curve: Curve, metric: str, db: bool, notes: Sequence[str], **options: Any) -> go.Scatter:
    """The finite points of a curve. `notes` are texts for each point, or one text for all."""
    rate = np.array(curve.results["bpp"], float)
    plain = curve.results.get(metric) or [math.nan] * len(rate)
    value = quality_db(curve, metric) if db else np.array(plain, float)
    keep = np.flatnonzero(np.isfinite(rate) & np.isfinite(value)).tolist()
    quality = curve.results.get("quality") or [0.0] * len(rate)
    notes = [notes] * len(rate) if isinstance(notes, str) else notes
    options = {"name": curve.name, "mode": "lines", **options}
    return go.Scatter(
        x=rate[keep].tolist(),
        y=value[keep].tolist(),
        customdata=[quality[i] for i in keep],
        text=[_point(curve, i, notes[i] if notes else "") for i in keep],
        hovertemplate="<b>%{fullData.name}</b><br>%{text}<extra></extra>",
        **options,
    )


def _point(curve: Curve, i: int, note: str) -> str:
    lines = [note] if note else []
    lines.append(f"{curve.results['bpp'][i]:.4f} bpp")
    psnr, similarity = (curve.results.get(key, [math.nan] * (i + 1))[i] for key in ("psnr-rgb", "ms-ssim-rgb"))
    if math.isfinite(psnr):
        lines.append(f"PSNR {psnr:.2f} dB")
    if math.isfinite(similarity):
        lines.append(f"MS-SSIM {similarity:.4f}, {ms_ssim_db(similarity):.2f} dB")
    return "<br>".join(lines)


def _rd_axes(own: Sequence[go.Scatter], traces: Sequence[go.Scatter]) -> dict[str, Any]:
    """Axes over the models' own range with a margin. The rate is logarithmic if it varies by more than 8 to 1."""
    rate = [x for trace in own for x in trace.x if x > 0]
    if not rate:
        return {}
    low, high = min(rate), max(rate)
    if high > 8 * low:
        low, high = low / 1.2, high * 1.2
        xaxis = log_axis(low, high)
    else:
        margin = 0.08 * (high - low) or 0.1 * high
        low, high = max(0.0, low - margin), high + margin
        xaxis = {"range": [low, high]}
    # The values of the others within that range of rates should be visible too.
    bottom = min(y for trace in own for y in trace.y)
    top = max(y for trace in (*own, *traces) for x, y in zip(trace.x, trace.y, strict=True) if low <= x <= high)
    margin = 0.05 * (top - bottom) or 0.01 * abs(top) or 1.0
    return {"xaxis": xaxis, "yaxis": {"range": [bottom - margin, top + margin]}}


def log_axis(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis from `low` to `high`, with ticks at 1, 2 and 5, or only at powers over many decades."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    ticks = [tick for decade in decades for step in steps if low <= (tick := step * 10.0**decade) <= high]
    ends = [math.log10(low), math.log10(high)]
    return {"type": "log", "range": ends, "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


# ------------------------------------------------------------- training


def learning_views(training: Sequence[tuple[TrainingRun, Model]]) -> Views:
    """A view, with all runs, for each metric with more than one logged point."""
    names = dict.fromkeys(name for run, _ in training for name, points in run.scalars.items() if len(points) > 1)
    known = [name for name in _CURVES if name in names]
    # Metrics such as val/bpp_q0.5 are the RD curves. A loss for each level would make six plots that show the same.
    again = ("val/bpp_q", "val/psnr_q", "val/ms_ssim_q", "train/loss_level_")
    more = [name for name in names if name not in _CURVES and not name.startswith(again)]
    views = {}
    for name in known + sorted(more):
        logged = [(run, model) for run, model in training if len(run.scalars.get(name, [])) > 1]
        traces = [learning_trace(run, model, name) for run, model in logged]
        title = "Learning rate" if name.startswith("lr-") else _CURVES.get(name, name)
        values = finite([y for trace in traces for y in trace.y])
        wide = bool(values) and 0 < 20 * min(values) < max(values)
        yaxis = log_axis(min(values) / 1.1, max(values) * 1.1) if wide else {}
        label = title if name in (title, "val/loss", "train/loss") else f"{title}, {name}"
        views[label] = _figure(traces, "step", title, yaxis=yaxis)
    return views


def learning_trace(run: TrainingRun, model: Model, name: str) -> go.Scatter:
    """One logged metric of one run."""
    steps, values = (np.array(column, float) for column in zip(*run.scalars[name], strict=True))
    if len(steps) > _LEARNING_POINTS:
        parts = np.array_split(np.arange(len(steps)), _LEARNING_POINTS)
        steps, values = (np.array([column[part].mean() for part in parts]) for column in (steps, values))
    lambdas = run.lambdas if model.joined else None
    style = style_of(model.index)
    return go.Scatter(
        name=model.label + (f", λ = {span(lambdas)}" if lambdas else ""),
        uid=str(run.path),
        mode="lines+markers" if len(steps) <= 30 else "lines",
        x=[round(step) for step in steps],
        y=[float(f"{value:.5g}") for value in values],
        line={"color": style.color, "width": 1.8},
        marker={"symbol": style.symbol, "size": 5},
        hovertemplate="<b>%{fullData.name}</b><br>step %{x:,}<br>%{y:.4g}<extra></extra>",
    )


def gain_views(training: Sequence[tuple[TrainingRun, Model]]) -> Views:
    """Gain vectors over channels (the paper's figure 1) and their inverses, with a view for each run that has them."""
    having = [(run, model) for run, model in training if run.gains]
    labels = [model.label for _, model in having]
    return {
        model.label if labels.count(model.label) == 1 else f"{model.label} ({run.path})": _gain_figure(run, model)
        for run, model in having
    }


def _gain_figure(run: TrainingRun, model: Model) -> go.Figure:
    order = np.argsort(np.log(run.gains["gain"]).mean(0))
    levels = len(run.gains["gain"])
    lambdas = model.choices.get(LAMBDAS) or [None] * levels
    colors = sample_colorscale(_LEVEL_SCALE, np.linspace(0, 1, levels).tolist())
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.06)
    for row, (key, title) in enumerate((("gain", "gain m"), ("inverse", "inverse gain m′")), start=1):
        vectors = run.gains[key][:, order]
        for level, vector in enumerate(vectors):
            trace = go.Scatter(
                name=f"level {level}" + (f", λ = {lambdas[level]:g}" if lambdas[level] else ""),
                uid=f"{key}-{level}",
                legendgroup=f"level-{level}",
                showlegend=row == 1,
                x=list(range(1, len(order) + 1)),
                y=[float(f"{value:.5g}") for value in vector],
                text=[f"channel {channel}" for channel in order],
                mode="lines",
                line={"color": colors[level], "width": 1.8},
                hovertemplate="<b>%{fullData.name}</b><br>%{text}<br>%{y:.4g}<extra></extra>",
            )
            figure.add_trace(trace, row=row, col=1)
        axis = log_axis(vectors.min() / 1.1, vectors.max() * 1.1)
        figure.update_yaxes(title_text=title, row=row, col=1, **axis)
    figure.update_xaxes(title_text="channels of y by rising mean gain", row=2, col=1)
    figure.update_layout(template="none")
    return figure
