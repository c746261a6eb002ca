"""The report: one self-contained HTML page, made from a `Comparison`."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from agvae import __version__
from agvae.errors import ConfigError
from agvae.evaluation import background_curves, bd_rate_notes, bd_rates
from agvae.evaluation.rd import slug
from agvae.reporting.ablations import Gap, Group, ablations, gaps
from agvae.reporting.choices import Choices, differing, key_name, say, span
from agvae.reporting.collect import TrainingRun, finite
from agvae.reporting.compare import Comparison, Model, Panel


def render(comparison: Comparison, title: str) -> str:
    """The page as text.

    Raises ConfigError if plotly or jinja2 is not installed."""
    try:
        from jinja2 import Environment, PackageLoader
        from plotly.io.json import to_json_plotly
        from plotly.offline import get_plotlyjs

        from agvae.reporting import charts
    except ImportError as error:
        raise ConfigError(f"a report needs {error.name}, which is not installed: pip install -e '.[report]'") from None

    # Two evaluations of one data set may use different images. The number makes their names in links unique.
    panels = [_panel(panel, f"{slug(panel.title)}-{i}") for i, panel in enumerate(comparison.panels, 1)]
    scopes = {f"rd-{panel['id']}": charts.rd_views(panel["panel"]) for panel in panels}
    scopes |= {"learning": charts.learning_views(comparison.training), "gains": charts.gain_views(comparison.training)}
    figures = {
        name: [{"name": view, **json.loads(to_json_plotly(figure))} for view, figure in views.items()]
        for name, views in scopes.items()
        if views
    }
    environment = Environment(
        loader=PackageLoader("agvae.reporting", "page"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "fixed": _fixed, "value": _value, "key": key_name, "ends": _ends}
    page = files("agvae.reporting") / "page"
    return environment.get_template("page.html").render(
        title=title,
        version=__version__,
        css=(page / "page.css").read_text(),
        js=(page / "page.js").read_text(),
        plotly=get_plotlyjs(),
        figures=figures,
        templates=charts.page_templates(),
        symbols=charts.SYMBOLS,
        style=lambda model: charts.style_of(model.index),
        comparison=comparison,
        runs=_runs(comparison.training),
        choices=_choices(comparison),
        panels=panels,
    )


# ------------------------------------------------------------- tables


def _runs(training: Sequence[tuple[TrainingRun, Model]]) -> dict[str, Any]:
    """The table of runs, without the part that the paths of all folders share."""
    several = len(training) > 1
    root = os.path.commonpath([run.path.absolute() for run, _ in training]) if several else None
    return {"root": root, "rows": [_run(run, model, root) for run, model in training]}


def _run(run: TrainingRun, model: Model, root: str | None) -> dict[str, Any]:
    losses = finite([value for _, value in run.scalars.get("val/loss", [])])
    return {
        "run": run,
        "folder": os.path.relpath(run.path, root) if root else run.path,
        "model": model,
        "lambdas": span(run.lambdas) if run.lambdas else None,
        "max_steps": (run.config.get("trainer") or {}).get("max_steps") or 0,
        "loss": min(losses, default=None),
    }


def _choices(comparison: Comparison) -> dict[str, Any]:
    """The choices in which the models differ, by model, and those that they share."""
    models = [model for model in comparison.models if model.choices]
    keys = differing([model.choices for model in models])
    shared = {key: value for model in models[:1] for key, value in model.choices.items() if key not in keys}
    return {"models": models, "differing": keys, "shared": shared}


def _panel(panel: Panel, name: str) -> dict[str, Any]:
    curves = panel.codecs + [m.curve for m in panel.models]
    background = background_curves("psnr-rgb") if panel.published else []
    rates = [(m, bd_rates(m.curve, [c for c in curves if c is not m.curve], background)) for m in panel.models]
    reasons = dict.fromkeys(note for _, own in rates for note in bd_rate_notes(own))
    found = gaps(panel.models)
    return {
        "id": name,
        "panel": panel,
        "anchors": _anchors(rates, [curve.name for curve in curves]),
        "reasons": list(reasons),
        "ablations": [
            (key, [(_where(group, groups), group) for group in groups])
            for key, groups in ablations(panel.models).items()
        ],
        "gaps": [(m, gap if isinstance(gap, Gap) else None, gap) for m, gap in found],
        "to_fixed": any(isinstance(gap, Gap) and gap.levels_to_fixed is not None for _, gap in found),
    }


def _anchors(rates: Sequence[tuple[Any, Mapping[str, Any]]], measured: Sequence[str]) -> list[dict[str, Any]]:
    """The BD-rates of every model against each anchor.

    Published anchors come first, then those that are `measured`, in their order."""
    sources = {name: rate["source"] for _, own in rates for name, rate in own.items()}
    published = [name for name, source in sources.items() if source == "published"]
    ordered = published + [name for name in measured if name in sources]
    return [
        {"name": name, "source": sources[name], "rows": [(m.model, own[name]) for m, own in rates if name in own]}
        for name in ordered
    ]


def _where(group: Group, groups: Sequence[Group]) -> str:
    """The choices that distinguish a group from the other groups of the same choice, as text."""
    same: list[Choices] = [other.same for other in groups]
    return ", ".join(say(key, group.same[key]) for key in differing(same) if key in group.same)


def _ends(values: Sequence[float] | None, digits: int) -> str:
    known = finite(values or [])
    return "–".join(dict.fromkeys(f"{end:.{digits}f}" for end in (min(known), max(known)))) if known else "–"


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
