"""The value of single choices: models that differ in one choice only, and the loss between a model's trained levels."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from agvae.evaluation import METRICS, Curve, bd_rate, quality_db
from agvae.evaluation.rd import BDRate, loss_between_levels, pchip
from agvae.reporting.choices import CONTEXT, ENTROPY, GAIN, LAMBDAS, LEVELS, Choices, differing, frozen, without

if TYPE_CHECKING:
    from agvae.reporting.compare import MeasuredModel

# The plainest choice is the baseline of the others, if it is among them.
_BASELINES = {LEVELS: 1, ENTROPY: "symmetric", CONTEXT: "none", GAIN: "cvr"}
# Choices that necessarily differ when another one differs.
_BOUND = {LEVELS: (LAMBDAS, GAIN), "loss.name": (LAMBDAS,)}


class Group(NamedTuple):
    """Models that differ in one choice only. `rows` has (value, measured model, BD-rate by metric against row 0)."""

    same: Choices
    rows: list[tuple[Any, "MeasuredModel", dict[str, BDRate | None]]]


class Gap(NamedTuple):
    """The loss of a model between its trained levels, against the PCHIP curve of log bpp through them.

    For each metric, the loss in dB at equal rate: its mean over the qualities between levels, the largest, and the
    quality of the largest. `bits` is the mean difference in rate at equal PSNR, in percent. `levels_to_fixed` and
    `between_to_fixed` are this difference against the curve of fixed-rate models, for the trained levels and for
    the qualities between them. None stands for a missing value: no point in the range of the other curve, a curve
    that does not rise, or no fixed-rate models."""

    mean: dict[str, float]
    largest: dict[str, float]
    worst: dict[str, float]
    bits: float | None
    levels_to_fixed: float | None
    between_to_fixed: float | None


def ablations(models: Sequence["MeasuredModel"]) -> dict[str, list[Group]]:
    """For each choice, by key, the groups of models that agree in all other choices."""
    known = [measured for measured in models if measured.model.choices]
    groups = {key: _groups(known, key) for key in differing([m.model.choices for m in known])}
    return {key: found for key, found in groups.items() if found}


def _groups(measured: Sequence["MeasuredModel"], key: str) -> list[Group]:
    bound = _BOUND.get(key, ())
    # A fixed-rate model has no gain unit, so it is compared with models of both kinds.
    gains = {m.model.choices.get(GAIN) for m in measured if not m.model.joined} if key == LEVELS else set()
    groups: dict[Hashable, list[MeasuredModel]] = {}
    for one in measured:
        if key in one.model.choices:
            rest = without(one.model.choices, key, *bound)
            for gain in (gains if one.model.joined else {one.model.choices.get(GAIN)}) if gains else {None}:
                groups.setdefault((gain, rest), []).append(one)
    several = (members for members in groups.values() if len({frozen(m.model.choices[key]) for m in members}) > 1)
    return [_group(members, key, bound) for members in several]


def _group(members: list["MeasuredModel"], key: str, bound: Sequence[str]) -> Group:
    def place(one: "MeasuredModel") -> tuple:
        value = one.model.choices[key]
        number = isinstance(value, int | float)
        return value != _BASELINES.get(key), not number, value if number else str(value), one.model.index

    first, *rest = sorted(members, key=place)
    rates: dict[str, BDRate | None] = dict.fromkeys(METRICS)
    rows = [(first.model.choices[key], first, rates)]
    for one in rest:
        rates = {metric: bd_rate(first.curve, one.curve, metric) for metric in METRICS}
        rows.append((one.model.choices[key], one, rates))
    choices = [one.model.choices for one in members]
    shared = set.intersection(*map(set, choices))
    return Group({name: choices[0][name] for name in shared - {key, *bound}}, rows)


def gaps(models: Sequence["MeasuredModel"]) -> list[tuple["MeasuredModel", Gap | str]]:
    """For each model with qualities between its levels, its loss there, or the reason why it is unknown."""
    fixed = [m for m in models if m.model.joined and len(m.curve.results["bpp"]) > 1]
    found = [(m, _gap(m.curve, _matching(m, fixed))) for m in models if not m.model.joined]
    return [(measured, gap) for measured, gap in found if gap is not None]


def _matching(measured: "MeasuredModel", fixed: Sequence["MeasuredModel"]) -> Curve | None:
    """The curve of the fixed-rate models that share all of this model's choices except those of its gain units."""
    keys = (LEVELS, GAIN, LAMBDAS)
    own = without(measured.model.choices, *keys)
    return next((one.curve for one in fixed if without(one.model.choices, *keys) == own), None)


def _gap(curve: Curve, fixed: Curve | None) -> Gap | str | None:
    """None for a curve without qualities between levels, and a reason if no loss can be given."""
    quality = np.array(curve.results.get("quality", []))
    trained = quality % 1 == 0
    if quality.size == 0 or trained.all():
        return None
    if trained.sum() < 2:
        return "fewer than two trained levels were measured"
    at, between = _part(curve, trained), _part(curve, ~trained)
    mean, largest, worst = {}, {}, {}
    for metric in METRICS:
        places, loss = loss_between_levels(curve, metric)
        if np.isfinite(loss).any():
            mean[metric], largest[metric] = float(np.nanmean(loss)), float(np.nanmax(loss))
            worst[metric] = float(places[np.nanargmax(loss)])
    if not mean:
        return "its rate does not rise with its level"
    to_fixed = [_extra_bits(fixed, part) if fixed else None for part in (at, between)]
    return Gap(mean, largest, worst, _extra_bits(at, between), *to_fixed)


def _part(curve: Curve, which: np.ndarray) -> Curve:
    return replace(curve, results={key: np.array(values)[which].tolist() for key, values in curve.results.items()})


def _extra_bits(anchor: Curve, test: Curve) -> float | None:
    """Mean difference in rate at equal PSNR over the points of `test`, in percent."""
    metric = "psnr-rgb"
    expected = pchip(quality_db(anchor, metric), np.log(anchor.results["bpp"]), quality_db(test, metric))
    ratio = np.log(test.results["bpp"]) - expected
    return 100 * math.expm1(np.nanmean(ratio)) if np.isfinite(ratio).any() else None
