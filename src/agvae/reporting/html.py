"""The report: one HTML page that needs nothing but itself, from a `Comparison`."""

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from agvae import __version__
from agvae.errors import ConfigError
from agvae.evaluation import Curve, background_curves, bd_rate_notes, bd_rates, quality_db
from agvae.evaluation.rd import finite_or_none, slug
from agvae.metrics import ms_ssim_db
from agvae.reporting.compare import (
    ENTROPY,
    GAIN,
    LAMBDAS,
    LEVELS,
    Comparison,
    Gap,
    MeasuredModel,
    Model,
    Panel,
    differing,
    say,
    span,
)
from agvae.reporting.runs import TrainingRun

# A view of RD: the metric of BD-rates, whether its values are drawn in dB, and the axis.
_VIEWS = {
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
"""A longer learning curve is drawn as means over as many equal stretches."""

COLORS = 7
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
_DASHES = ("solid", "dash", "dot", "dashdot")


class Style(NamedTuple):
    """How a curve looks everywhere on the page: no two models share colour, dash and symbol."""

    color: str
    dash: str
    symbol: str | None


class Entry(NamedTuple):
    """A line of a legend, which shows or hides the traces whose `meta` is `key`."""

    key: str
    label: str
    style: Style
    group: str = ""
    shown: bool = True


def render(comparison: Comparison, title: str) -> str:
    """The page as text.

    Raises ConfigError where plotly or jinja2 is not installed."""
    try:
        from jinja2 import Environment, PackageLoader
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ConfigError(f"a report needs {error.name}: pip install -e '.[report]'") from None

    environment = Environment(
        loader=PackageLoader("agvae.reporting", "page"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"css": _css, "percent": _percent, "fixed": _fixed, "value": _value, "choice": _choice_name}
    page = files("agvae.reporting") / "page"
    # Two evaluations of one data set may be over other images: the number makes their names in links differ.
    panels = [_panel(panel, f"{slug(panel.title)}-{i}") for i, panel in enumerate(comparison.panels, 1)]
    learning, gains = _learning(comparison.training), _gains(comparison.training)
    scopes = [panel["scope"] for panel in panels] + [scope for scope in (learning, gains) if scope]
    return environment.get_template("page.html").render(
        title=title,
        version=__version__,
        css=(page / "page.css").read_text(),
        js=(page / "page.js").read_text(),
        plotly=get_plotlyjs(),
        comparison=comparison,
        runs=[_run(run, model) for run, model in comparison.training],
        choices=_choices(comparison),
        panels=panels,
        learning=learning,
        gains=gains,
        figures=_finite({scope["id"]: scope for scope in scopes}),
        style=style_of,
    )


def style_of(model: Model) -> Style:
    """The look of a model: seven colours and symbols, then the same with the next dash."""
    return _style(model.index)


def _style(index: int) -> Style:
    dash = _DASHES[index // COLORS % len(_DASHES)]
    return Style(f"var(--series-{index % COLORS + 1})", dash, SYMBOLS[(index + index // COLORS) % len(SYMBOLS)])


def _css(color: str) -> str:
    """A colour of `Style` as CSS has it."""
    if not color.startswith("ramp("):
        return color
    share = float(color.removeprefix("ramp(").removesuffix(")"))
    return f"color-mix(in srgb, var(--ramp-high) {share:.1%}, var(--ramp-low))"


# ------------------------------------------------------------- tables


def _run(run: TrainingRun, model: Model) -> dict[str, Any]:
    curve = run.curve
    losses = [value for _, value in run.scalars.get("val/loss", []) if math.isfinite(value)]
    lambdas = _lambdas(run, model)
    return {
        "model": model,
        "folder": run.path,
        "lambdas": lambdas,
        "steps": run.steps,
        "max_steps": (run.config.get("trainer") or {}).get("max_steps") or 0,
        "step": run.curve_step,
        "bpp": _range(curve.results["bpp"], 3) if curve else None,
        "psnr": _range(curve.results["psnr-rgb"], 2) if curve else None,
        "loss": min(losses) if losses else None,
    }


def _lambdas(run: TrainingRun, model: Model) -> str | None:
    if model.choices.get(LAMBDAS):
        return span(model.choices[LAMBDAS])
    given = (run.config.get("loss") or {}).get("lambdas")
    return span(given) if given else None


def _range(values: Sequence[float], digits: int) -> str | None:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    return "–".join(dict.fromkeys(f"{end:.{digits}f}" for end in (min(finite), max(finite))))


def _choices(comparison: Comparison) -> dict[str, Any]:
    """What differs between the models, a row per model, and what they share."""
    models = [model for model in comparison.models if model.choices]
    keys = differing([model.choices for model in models])
    shared = {key: value for model in models[:1] for key, value in model.choices.items() if key not in keys}
    return {"models": models, "keys": keys, "shared": shared}


def _percent(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:+.1f} %".replace("-", "−")


def _fixed(value: float | None, digits: int) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_value(one) for one in value)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _choice_name(key: str) -> str:
    names = {LEVELS: "gain vectors, n", GAIN: "gain", ENTROPY: "entropy", LAMBDAS: "λ"}
    return names.get(key) or key.removeprefix("model.").removesuffix(".name")


# ----------------------------------------------------------- a data set


def _panel(panel: Panel, name: str) -> dict[str, Any]:
    anchors = panel.codecs + [m.curve for m in panel.models]
    background = [curve for curve in background_curves("psnr-rgb") if panel.published]
    have = {curve.name for curve in panel.codecs}
    rows = [(m, bd_rates(m.curve, [a for a in anchors if a.name != m.curve.name], background)) for m in panel.models]
    columns = {curve.name: "this report" for curve in anchors}
    columns |= {f"{c.name}-published" if c.name in have else c.name: "published" for c in background}
    reasons = dict.fromkeys(note for _, rates in rows for note in bd_rate_notes(rates))
    return {
        "id": name,
        "panel": panel,
        "scope": _rd_scope(panel, f"rd-{name}"),
        "columns": columns,
        "rows": rows,
        "reasons": list(reasons),
        "ablations": {
            key: [_ablation(group, [g.same for g in groups]) for group in groups]
            for key, groups in panel.ablations().items()
        },
        "gaps": [(m, gap if isinstance(gap, Gap) else None, gap) for m, gap in panel.gaps()],
        "to_fixed": any(isinstance(gap, Gap) and gap.levels_to_fixed is not None for _, gap in panel.gaps()),
    }


def _ablation(group: Any, contexts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A group as rows, with words for what else sets it apart from the other groups of the same choice."""
    keys = differing([dict(context) for context in contexts])
    where = ", ".join(say(key, group.same[key]) for key in keys if key in group.same)
    rows = [
        {
            "value": value,
            "model": measured.model,
            "points": len(measured.curve.results["bpp"]),
            "bpp": _range(measured.curve.results["bpp"], 3),
            "rates": rates,
        }
        for value, measured, rates in group.rows
    ]
    return {"where": where, "rows": rows}


def _rd_scope(panel: Panel, name: str) -> dict[str, Any]:
    """The RD plot of a panel: models on top with marks at their points, other codecs thinner, published ones grey."""
    background = {view: {c.name for c in background_curves(metric)} for view, (metric, _, _) in _VIEWS.items()}
    taken = len(panel.models)
    codecs = {curve.name: _style(taken + i)._replace(symbol=None, dash="dot") for i, curve in enumerate(panel.codecs)}
    drawn = background["PSNR"] | background["MS-SSIM"]
    # Those that are shown come first, so that no two of them look alike.
    ordered = sorted(panel.published, key=lambda curve: curve.name not in drawn)
    published = {
        curve.name: Style(f"var(--published-{i % 4 + 1})", _DASHES[1 + i // 4 % 3], None)
        for i, curve in enumerate(ordered)
    }
    legend = [Entry(f"model-{m.model.index}", m.model.label, style_of(m.model)) for m in panel.models]
    legend += [Entry(f"codec-{name}", name, style, "measured beside") for name, style in codecs.items()]
    legend += [Entry(f"published-{name}", name, style, "published", name in drawn) for name, style in published.items()]
    views = []
    for metric, db, axis in _VIEWS.values():
        # From the back to the front.
        traces = [
            _rd_trace(c, metric, db, f"published-{c.name}", published[c.name], c.source or "") for c in panel.published
        ]
        traces += [_rd_trace(c, metric, db, f"codec-{c.name}", codecs[c.name], "") for c in panel.codecs]
        traces += [_rd_trace(m.curve, metric, db, f"model-{m.model.index}", style_of(m.model), m) for m in panel.models]
        views.append({"data": [trace for trace in traces if trace], "layout": _rd_layout(panel, traces, axis, metric)})
    return {
        "id": name,
        "views": list(_VIEWS),
        "legend": [_legend(entry) for entry in legend],
        "figures": [{"views": views, "tall": True, "label": f"Rate-distortion curves on {panel.title}"}],
    }


def _rd_trace(
    curve: Curve, metric: str, db: bool, key: str, style: Style, of: MeasuredModel | str
) -> dict[str, Any] | None:
    rate = np.array(curve.results["bpp"], float)
    plain = np.array(curve.results.get(metric) or [math.nan] * len(rate), float)
    value = quality_db(curve, metric) if db else plain
    keep = np.flatnonzero(np.isfinite(rate) & np.isfinite(value))
    if not keep.size:
        return None
    ours = isinstance(of, MeasuredModel)
    quality = np.array(curve.results.get("quality") or np.zeros(len(rate)))
    trained = (quality % 1 == 0)[keep]
    trace = {
        "type": "scatter",
        "name": curve.name,
        "meta": key,
        "x": rate[keep].tolist(),
        "y": value[keep].tolist(),
        "text": [_point(curve, i, of.notes[i] if ours and of.notes else "") for i in keep],
        "hovertemplate": "<b>%{fullData.name}</b><br>%{text}<extra></extra>",
        "mode": "lines+markers" if ours else "lines",
        "line": {"color": style.color, "dash": style.dash, "width": 2.6 if ours else 1.6},
    }
    if ours:
        trace["marker"] = {
            "symbol": [style.symbol if whole else f"{style.symbol}-open" for whole in trained],
            "size": [9 if whole else 6 for whole in trained],
            "line": {"width": 1.5},
        }
    elif of:
        trace["text"] = [f"{text}<br>{of}" for text in trace["text"]]
    return trace


def _point(curve: Curve, i: int, note: str) -> str:
    lines = [note] if note else []
    lines.append(f"{curve.results['bpp'][i]:.4f} bpp")
    psnr, similarity = (curve.results.get(key, [math.nan] * (i + 1))[i] for key in ("psnr-rgb", "ms-ssim-rgb"))
    if math.isfinite(psnr):
        lines.append(f"PSNR {psnr:.2f} dB")
    if math.isfinite(similarity):
        lines.append(f"MS-SSIM {similarity:.4f}, {ms_ssim_db(similarity):.2f} dB")
    return "<br>".join(lines)


def _rd_layout(panel: Panel, traces: Sequence[dict | None], axis: str, metric: str) -> dict[str, Any]:
    """Axes over the models' own range with a margin; the rate is logarithmic when that is wider than one to eight."""
    layout: dict[str, Any] = {"xaxis": {"title": {"text": "bits per pixel"}}, "yaxis": {"title": {"text": axis}}}
    drawn = [trace for trace in traces if trace]
    own = [trace for trace in drawn if trace["meta"].startswith("model-")] or drawn
    rate = np.array([x for trace in own for x in trace["x"] if x > 0])
    value = np.array([y for trace in own for y in trace["y"]])
    if not rate.size:
        return layout
    low, high = float(rate.min()), float(rate.max())
    if high > 8 * low:
        low, high = low / 1.2, high * 1.2
        layout["xaxis"] |= _log_axis(low, high)
    else:
        margin = 0.08 * (high - low) or 0.1 * high
        low, high = max(0.0, low - margin), high + margin
        layout["xaxis"]["range"] = [low, high]
    # What others reach within that range of rates is to be seen too.
    others = [y for trace in drawn for x, y in zip(trace["x"], trace["y"], strict=True) if low <= x <= high]
    bottom, top = float(value.min()), max([float(value.max()), *others])
    margin = 0.05 * (top - bottom) or 0.01 * abs(top) or 1.0
    layout["yaxis"]["range"] = [bottom - margin, top + margin]
    return layout


def _log_axis(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis from `low` to `high` with its ticks at 1, 2 and 5, or over many decades at their powers."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    ticks = [tick for decade in decades for step in steps if low <= (tick := step * 10.0**decade) <= high]
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def _legend(entry: Entry) -> dict[str, Any]:
    return {**entry._asdict(), "style": entry.style._asdict()}


# ------------------------------------------------------------- training


def _learning(training: Sequence[tuple[TrainingRun, Model]]) -> dict[str, Any] | None:
    """A plot for each metric that more than one point was logged of, all runs in each."""
    logged = [(run, model) for run, model in training if run.scalars]
    names = dict.fromkeys(name for run, _ in logged for name, points in run.scalars.items() if len(points) > 1)
    known = [name for name in _CURVES if name in names]
    # val/bpp_q0.5 and the like are the RD curves; a loss for each level makes six plots that say the same.
    more = [n for n in names if n not in _CURVES and not n.startswith(("val/bpp_q", "val/psnr_q", "val/ms_ssim_q"))]
    more = [name for name in more if not name.startswith("train/loss_level_")]
    figures = []
    for name in known + sorted(more):
        traces = [_learning_trace(run, model, name) for run, model in logged if len(run.scalars.get(name, [])) > 1]
        values = [y for trace in traces for y in trace["y"] if math.isfinite(y)]
        layout = {"xaxis": {"title": {"text": "step"}}, "yaxis": _learning_axis(values)}
        title = "Learning rate" if name.startswith("lr-") else _CURVES.get(name, name)
        figures.append({"title": title, "name": name, "label": title, "views": [{"data": traces, "layout": layout}]})
    if not figures:
        return None
    shown = {model.index: model for _, model in logged}
    legend = [Entry(f"model-{index}", model.label, style_of(model)) for index, model in sorted(shown.items())]
    return {"id": "learning", "views": [], "legend": [_legend(entry) for entry in legend], "figures": figures}


def _learning_axis(values: Sequence[float]) -> dict[str, Any]:
    """Logarithmic where values span more than one to twenty, and not blown up where all are equal."""
    if not values:
        return {}
    low, high = min(values), max(values)
    if low == high:
        return {"range": [low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2]}
    return _log_axis(low / 1.1, high * 1.1) if 0 < 20 * low < high else {}


def _learning_trace(run: TrainingRun, model: Model, name: str) -> dict[str, Any]:
    steps, values = (np.array(column, float) for column in zip(*run.scalars[name], strict=True))
    label = model.label
    if model.joined and (lambdas := _lambdas(run, model)):
        label += f", λ = {lambdas}"
    few = len(steps) <= 30
    if len(steps) > _LEARNING_POINTS:
        parts = np.array_split(np.arange(len(steps)), _LEARNING_POINTS)
        steps, values = (np.array([column[part].mean() for part in parts]) for column in (steps, values))
    style = style_of(model)
    return {
        "type": "scatter",
        "name": label,
        "meta": f"model-{model.index}",
        "mode": "lines+markers" if few else "lines",
        "x": [round(step) for step in steps],
        "y": [float(f"{value:.5g}") for value in values],
        "line": {"color": style.color, "dash": style.dash, "width": 1.8},
        "marker": {"symbol": style.symbol, "size": 5},
        "hovertemplate": "<b>%{fullData.name}</b><br>step %{x:,}<br>%{y:.4g}<extra></extra>",
    }


def _gains(training: Sequence[tuple[TrainingRun, Model]]) -> dict[str, Any] | None:
    """Gain vectors over channels (the paper's Figure 1) and their inverses, a view for each run that has them."""
    having = [(run, model) for run, model in training if run.gains]
    if not having:
        return None
    most = max(len(run.gains["gain"]) for run, _ in having)
    legend = [
        Entry(f"level-{level}", f"level {level}", Style(_ramp(level, most), "solid", None)) for level in range(most)
    ]
    names = {"gain": "Gain m", "inverse": "Inverse gain m′"}
    figures = [
        {
            "title": title,
            "label": f"{title} over channels",
            "views": [_gain_view(run, model, key, title) for run, model in having],
        }
        for key, title in names.items()
    ]
    return {
        "id": "gains",
        "views": [model.label for _, model in having],
        "legend": [_legend(entry) for entry in legend],
        "figures": figures,
    }


def _gain_view(run: TrainingRun, model: Model, key: str, title: str) -> dict[str, Any]:
    order = np.argsort(np.log(run.gains["gain"]).mean(0))
    vectors = run.gains[key][:, order]
    lambdas = model.choices.get(LAMBDAS) or [None] * len(vectors)
    traces = [
        {
            "type": "scatter",
            "name": f"level {level}" + (f", λ = {lambdas[level]:g}" if lambdas[level] else ""),
            "meta": f"level-{level}",
            "mode": "lines",
            "x": list(range(1, len(order) + 1)),
            "y": [float(f"{value:.5g}") for value in vector],
            "text": [f"channel {channel}" for channel in order],
            "line": {"color": _ramp(level, len(vectors)), "width": 1.8},
            "hovertemplate": "<b>%{fullData.name}</b><br>%{text}<br>%{y:.4g}<extra></extra>",
        }
        for level, vector in enumerate(vectors)
    ]
    layout = {
        "xaxis": {"title": {"text": "channels of y by rising mean gain"}},
        "yaxis": {"title": {"text": title}, **_log_axis(vectors.min() / 1.1, vectors.max() * 1.1)},
    }
    return {"data": traces, "layout": layout}


def _ramp(level: int, levels: int) -> str:
    return f"ramp({level / max(levels - 1, 1):.3f})"


def _finite(value: Any) -> Any:
    """The same with None for what JSON has no word for."""
    if isinstance(value, float):
        return finite_or_none(value)
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
