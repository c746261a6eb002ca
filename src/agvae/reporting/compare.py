"""Joins runs: their models, and all curves that were measured on the same images."""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agvae.evaluation import KODAK_IMAGES, METRICS, Curve, published_curves, slug
from agvae.reporting.choices import LAMBDAS, LEVELS, Choices, choices_of, short_names, span, without
from agvae.reporting.collect import EvaluationRun, Runs, TrainingRun

_VALIDATION = ("layout", "name", "root", "val_root", "val_share", "val_images", "val_crop")

Run = TrainingRun | EvaluationRun


@dataclass(frozen=True)
class Model:
    """The subject of one curve: one trained model, or several single-rate models that form a curve together.

    `label` is its unique name on the page. `index` is its place among all, which sets its colour. `choices` are those
    of its configuration by dotted key, as far as they are known."""

    label: str
    index: int
    choices: Choices

    @property
    def joined(self) -> bool:
        """Whether its curve consists of one model per λ."""
        return self.choices.get(LEVELS) == 1


class MeasuredModel(NamedTuple):
    """A model's curve over a set of images. `notes` has a text for each point, such as "level 2" or "λ = 0.007"."""

    model: Model
    curve: Curve
    notes: tuple[str, ...]


@dataclass
class Panel:
    """All measurements on the same images, which can be compared."""

    title: str
    subtitle: str
    coded: bool
    models: list[MeasuredModel] = field(default_factory=list)
    codecs: list[Curve] = field(default_factory=list)
    published: tuple[Curve, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The content of a report: its panels, those of real files first, and each training run with its model."""

    panels: list[Panel]
    models: list[Model]
    training: list[tuple[TrainingRun, Model]]
    notes: list[str]


def compare(runs: Runs) -> Comparison:
    """Join runs by the identity that they store, models by their configuration, and curves by their images."""
    notes = list(runs.notes)
    every: list[Run] = [*runs.training, *runs.evaluation]  # training first, because it knows more about a model
    with_model = [run for run in every if isinstance(run, TrainingRun) or any(c.is_ours for c in run.curves)]
    chosen: dict[Hashable, Choices] = {}
    for run in with_model:
        if _identity(run) not in chosen:
            chosen[_identity(run)] = _choices(run, notes)
    models = _models(with_model, chosen)
    _note_ladders(models.values(), notes)

    panels: dict[Hashable, Panel] = {}
    points: dict[tuple[Hashable, int], list[tuple[Run, Curve]]] = {}
    for run in every:
        key, panel = _panel(run)
        panel = panels.setdefault(key, panel)
        for curve in (run.curve,) if isinstance(run, TrainingRun) else run.curves:
            if curve and curve.is_ours:
                points.setdefault((key, models[_identity(run)].index), []).append((run, curve))
        if isinstance(run, EvaluationRun):
            _add_codecs(panel, run, notes)
    for (key, _), found in points.items():
        panels[key].models.append(_measured(models[_identity(found[0][0])], found, chosen, notes))
    for panel in panels.values():
        panel.models.sort(key=lambda measured: measured.model.index)

    shown = [panel for panel in panels.values() if panel.models or panel.codecs]
    ordered = {model.index: model for model in models.values()}
    return Comparison(
        sorted(shown, key=lambda panel: not panel.coded),
        [ordered[index] for index in sorted(ordered)],
        [(run, models[_identity(run)]) for run in runs.training],
        notes,
    )


# ------------------------------------------------------ which model it is


def _identity(run: Run) -> Hashable:
    """A value that is equal for all runs of one trained model: the name of its training run, or else the fingerprint of
    its model file."""
    own = run.path.resolve() if isinstance(run, TrainingRun) else run.checkpoint or run.path
    return run.facts.get("run") or run.facts.get("fingerprint") or str(own)


def _choices(run: Run, notes: list[str]) -> Choices:
    facts = {key: run.facts[key] for key in ("model", "loss") if run.facts.get(key)}
    choices = choices_of((run.config if isinstance(run, TrainingRun) else {}) | facts)
    if choices and LAMBDAS not in choices:
        notes.append(f"{run.path}: the λ of its levels are unknown, since an older version wrote its model")
    return choices


def _models(runs: Sequence[Run], chosen: dict[Hashable, Choices]) -> dict[Hashable, Model]:
    """The models by identity. Single-level models that differ only in λ become one."""
    members: dict[Hashable, list[Run]] = {}
    for run in runs:
        choices = chosen[_identity(run)]
        joined = choices.get(LEVELS) == 1
        members.setdefault(without(choices, LAMBDAS) if joined else _identity(run), []).append(run)
    found = list(members.values())
    choices_of_models = [dict(chosen[_identity(group[0])]) for group in found]
    for own in choices_of_models:
        if own.get(LEVELS) == 1:
            own.pop(LAMBDAS, None)
    folders = [str(group[0].path) for group in found]
    labels = short_names(choices_of_models, folders, [_name(group) for group in found])
    models: dict[Hashable, Model] = {}
    for index, (group, label, own) in enumerate(zip(found, labels, choices_of_models, strict=True)):
        models |= dict.fromkeys(map(_identity, group), Model(label, index, own))
    return models


def _name(runs: Sequence[Run]) -> str:
    """The folder of a model's training run, or the name of its curve."""
    first = runs[0]
    return first.path.name if isinstance(first, TrainingRun) else next(c.name for c in first.curves if c.is_ours)


def _note_ladders(models: Iterable[Model], notes: list[str]) -> None:
    by_loss: dict[str, dict[str, dict[str, None]]] = {}
    for model in models:
        if lambdas := model.choices.get(LAMBDAS):
            ladders = by_loss.setdefault(str(model.choices.get("loss.name")), {})
            ladders.setdefault(span(lambdas), {})[model.label] = None
    for ladders in by_loss.values():
        if len(ladders) > 1:
            words = "; ".join(f"{ends} in {', '.join(labels)}" for ends, labels in ladders.items())
            notes.append(f"λ ladders differ ({words}): a BD-rate covers only the qualities that both curves reach")


# ------------------------------------------------ what it was measured on


def _panel(run: Run) -> tuple[Hashable, Panel]:
    """The panel to which a run's curves belong, and its key."""
    if isinstance(run, EvaluationRun):
        count = f"{len(run.images)} image{'s' * (len(run.images) > 1)}" if run.images else "images"
        published = published_curves() if slug(run.dataset) == "kodak" else ()
        words = f"{count}, real files with their headers, metrics on the decoded 8-bit pictures."
        if published and run.images and len(run.images) != KODAK_IMAGES:
            words += f" The published curves are means over all {KODAK_IMAGES} images."
        return (run.dataset, run.images), Panel(run.dataset, words, True, published=published)
    data = run.config.get("data") or {}
    if not data:
        return "unknown", Panel("Validation", "The images are unknown. Rates are the models' own estimates.", False)
    where = data.get("val_root") or data.get("root")
    name = data.get("name") if data.get("name") and not data.get("val_root") else where and Path(where).name
    name = str(name or data.get("layout"))
    crop = f", centre crops of at most {data['val_crop']} pixels a side" if data.get("val_crop") else ""
    all_images = (data.get("val_images") or KODAK_IMAGES) >= KODAK_IMAGES
    whole = slug(name) == "kodak" and not data.get("val_crop") and all_images
    key = tuple((name, data.get(name)) for name in _VALIDATION)
    words = f"Held-out images{crop}. Rates are the models' own estimates, without the bytes of a header."
    return key, Panel(f"{name}, validation", words, False, published=published_curves() if whole else ())


def _add_codecs(panel: Panel, run: EvaluationRun, notes: list[str]) -> None:
    have = {curve.name: curve for curve in panel.codecs}
    for curve in run.curves:
        if curve.is_ours:
            continue
        if curve.name not in have:
            panel.codecs.append(curve)
        elif not _equal(curve, have[curve.name]):
            notes.append(
                f"{run.path}: {curve.name} has other results on {run.dataset} than in an earlier run: left out"
            )


def _equal(one: Curve, other: Curve) -> bool:
    nothing: list[float] = []
    values = [(one.results.get(key, nothing), other.results.get(key, nothing)) for key in ("bpp", *METRICS)]
    return all(len(a) == len(b) and np.allclose(a, b, equal_nan=True) for a, b in values)


def _measured(
    model: Model, found: Sequence[tuple[Run, Curve]], chosen: dict[Hashable, Choices], notes: list[str]
) -> MeasuredModel:
    if not model.joined:
        for run, _ in found[1:]:
            notes.append(f"{run.path}: {model.label} was already measured on these images: left out")
        curve = replace(found[0][1], name=model.label)
        return MeasuredModel(model, curve, tuple(map(_place, curve.results.get("quality", []))))
    by_lambda: dict[float, Curve] = {}
    for run, curve in found:
        value = chosen[_identity(run)].get(LAMBDAS, [math.nan])[0]
        if value in by_lambda:
            notes.append(f"{run.path}: another fixed-rate model has λ = {value:g} already: left out")
        else:
            by_lambda[value] = curve
    ordered = sorted(by_lambda.items())
    results = {key: [curve.results.get(key, [math.nan])[0] for _, curve in ordered] for key in ("bpp", *METRICS)}
    points = tuple(f"λ = {value:g}" for value, _ in ordered)
    return MeasuredModel(model, Curve(model.label, "one model per λ", results), points)


def _place(quality: float) -> str:
    if quality % 1 == 0:
        return f"quality {quality:g}, a trained level"
    return f"quality {quality:g}, between levels {math.floor(quality)} and {math.ceil(quality)}"
