"""Brings runs together: which model is which, what differs between them, and what each difference is worth."""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agvae.errors import ConfigError
from agvae.evaluation import KODAK_IMAGES, METRICS, Curve, bd_rate, published_curves, quality_db, slug
from agvae.evaluation.rd import BDRate, loss_between_levels, pchip
from agvae.reporting.runs import EvaluationRun, Runs, TrainingRun
from agvae.training.losses import level_lambdas
from agvae.training.resume import flat

LEVELS, GAIN, ENTROPY, LAMBDAS = "model.gain.levels", "model.gain.name", "model.entropy", "loss.lambdas"

_SECTIONS = ("model", "init_from", "loss", "data", "optimizer", "scheduler", "ema", "validation", "trainer", "seed")
# Where and how fast a run trains, and what it is validated on, is no property of its model.
_IGNORED = {f"data.{key}" for key in ("cache", "cache_gib", "cache_dir", "num_workers", "shuffle_shards", "download")}
_IGNORED |= {"data.val_images", "data.val_crop", "loss.ladder", "validation.qualities"}
_TRAINER = ("max_steps", "max_epochs", "max_time", "precision", "accumulate_grad_batches", "gradient_clip_val")
_VALIDATION = ("layout", "name", "root", "val_root", "val_share", "val_images", "val_crop")
# What the others are measured against: the plainest choice, where it is among them.
_BASELINES = {LEVELS: 1, ENTROPY: "symmetric", "model.context.name": "none", GAIN: "cvr"}

Choices = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """What one curve is of: one trained model, or several of one rate each that make a curve together.

    `label` names it on the page, differently for each; `index` is its place among all, which gives its colour;
    `choices` what its configuration says, by dotted key, as far as that is known; `folders` its training runs.
    """

    label: str
    index: int
    choices: Choices
    folders: tuple[Path, ...] = ()

    @property
    def joined(self) -> bool:
        """Whether its curve has one model per λ."""
        return self.choices.get(LEVELS) == 1


class MeasuredModel(NamedTuple):
    """A model's curve over a set of images; `notes` says what each point is, e.g. "level 2" or "λ = 0.007"."""

    model: Model
    curve: Curve
    notes: tuple[str, ...]


class Gap(NamedTuple):
    """What a model loses between its trained levels, against the PCHIP curve of log bpp through them.

    By metric the loss in dB at equal rate: its mean over the qualities between, the largest, and the quality that has
    it. `bits` is the mean difference in rate at equal PSNR, in percent; `levels_to_fixed` and `between_to_fixed` are
    that of the trained levels and of the qualities between against the curve of fixed-rate models. None is what
    cannot be had: no point in the range of the other curve, one that does not rise, no fixed-rate models.
    """

    mean: dict[str, float]
    largest: dict[str, float]
    worst: dict[str, float]
    bits: float | None
    levels_to_fixed: float | None
    between_to_fixed: float | None


class Group(NamedTuple):
    """Models that differ in one choice only: `rows` has (value, measured, BD-rate by metric against the first)."""

    same: Choices
    rows: list[tuple[Any, MeasuredModel, dict[str, BDRate | None]]]


@dataclass
class Panel:
    """Everything that was measured on the same images, so that it can be compared."""

    title: str
    subtitle: str
    coded: bool
    models: list[MeasuredModel] = field(default_factory=list)
    codecs: list[Curve] = field(default_factory=list)
    published: tuple[Curve, ...] = ()

    def ablations(self) -> dict[str, list[Group]]:
        """By the key of a choice, the groups of models that agree in all other choices."""
        known = [measured for measured in self.models if measured.model.choices]
        groups = {key: _groups(known, key) for key in differing([m.model.choices for m in known])}
        return {key: found for key, found in groups.items() if found}

    def gaps(self) -> list[tuple[MeasuredModel, Gap | str]]:
        """For each model with qualities between its levels what it loses there, or why that is unknown."""
        fixed = [m for m in self.models if m.model.joined and len(m.curve.results["bpp"]) > 1]
        found = [(m, _gap(m.curve, _matching(m, fixed))) for m in self.models if not m.model.joined]
        return [(measured, gap) for measured, gap in found if gap is not None]


@dataclass(frozen=True)
class Comparison:
    """All of a report: its panels, real files first, and each training run with the model that it is (part) of."""

    panels: list[Panel]
    models: list[Model]
    training: list[tuple[TrainingRun, Model]]
    notes: list[str]


def compare(runs: Runs) -> Comparison:
    """Tell models apart by their configuration, and join their curves by what they were measured on."""
    notes = list(runs.notes)
    of_training = {id(run): _choices(run.config, run.path, notes) for run in runs.training}
    of_evaluation = {}
    identity: dict[int, Hashable] = {}
    for run in runs.training:
        identity[id(run)] = _identity(run.path.resolve(), of_training[id(run)])
    for run in runs.evaluation:
        trained = _trained_as(run, runs.training, of_training)
        of_evaluation[id(run)] = of_training[id(trained)] if trained else _choices(run.config, run.path, notes)
        own = str(run.checkpoint or run.path)
        identity[id(run)] = identity[id(trained)] if trained else _identity(own, of_evaluation[id(run)])

    choices = of_training | of_evaluation
    members: dict[Hashable, list] = {}
    for run in (*runs.training, *runs.evaluation):
        if _has_model(run):
            members.setdefault(identity[id(run)], []).append(run)
    models = _models(members, choices)
    _note_ladders(models.values(), notes)

    panels: dict[Hashable, Panel] = {}
    points: dict[tuple, list] = {}
    for run in (*runs.training, *runs.evaluation):
        key, panel = _panel(run)
        panel = panels.setdefault(key, panel)
        curves = (run.curve,) if isinstance(run, TrainingRun) else run.curves
        for curve in curves:
            if curve and curve.is_ours:
                points.setdefault((key, identity[id(run)]), []).append((run, curve))
        if isinstance(run, EvaluationRun):
            _add_codecs(panel, run, notes)
    for (key, who), found in points.items():
        panels[key].models.append(_measured(models[who], found, choices, notes))
    for panel in panels.values():
        panel.models.sort(key=lambda measured: measured.model.index)

    training = [(run, models[identity[id(run)]]) for run in runs.training]
    shown = [panel for panel in panels.values() if panel.models or panel.codecs]
    return Comparison(sorted(shown, key=lambda panel: not panel.coded), list(models.values()), training, notes)


def differing(choices: Sequence[Choices]) -> list[str]:
    """Keys that have more than one value where they are known, the model's first."""
    keys = dict.fromkeys(key for chosen in choices for key in chosen)
    found = [key for key in keys if len({_frozen(chosen[key]) for chosen in choices if key in chosen}) > 1]
    return sorted(found, key=lambda key: _SECTIONS.index(key.partition(".")[0]))


# ------------------------------------------------------ which model it is


def _choices(config: Mapping[str, Any], path: Path, notes: list[str]) -> Choices:
    """What a configuration chooses, by dotted key: entropy as one word, the λ of each level written out."""
    written = flat({name: config[name] for name in _SECTIONS if name in config})
    trainer = {f"trainer.{name}" for name in _TRAINER}
    kept = {
        key: value
        for key, value in written.items()
        if key not in _IGNORED and (not key.startswith("trainer.") or key in trainer)
    }
    name, form = kept.pop("model.entropy.name", None), kept.pop("model.entropy.form", None)
    if name is not None:
        kept[ENTROPY] = form if name == "asymmetric" and form else name
    if "loss" in config and LEVELS in kept:
        try:
            kept[LAMBDAS] = [float(f"{value:.4g}") for value in level_lambdas(config["loss"], kept[LEVELS])]
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            notes.append(f"{path}: its λ are unknown ({error})")
            kept.pop(LAMBDAS, None)
    return kept


def _frozen(value: Any) -> Hashable:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _without(choices: Choices, *keys: str) -> Hashable:
    return tuple(sorted((key, repr(value)) for key, value in choices.items() if key not in keys))


def _identity(own: Hashable, choices: Choices) -> Hashable:
    """A run's own identity, or for a fixed-rate model that of all that differ from it in λ alone."""
    return _without(choices, LAMBDAS) if choices.get(LEVELS) == 1 else own


def _has_model(run: TrainingRun | EvaluationRun) -> bool:
    return isinstance(run, TrainingRun) or any(curve.is_ours for curve in run.curves)


def _trained_as(
    run: EvaluationRun, training: Sequence[TrainingRun], choices: Mapping[int, Choices]
) -> TrainingRun | None:
    """The training run whose model was evaluated, if it is among these."""
    if run.checkpoint is None:
        return None
    checkpoint = Path(run.checkpoint)
    found = [one for one in training if one.path.resolve() in checkpoint.resolve().parents]
    if not found and checkpoint.suffix == ".ckpt" and not checkpoint.exists():  # the folders were copied here
        found = [one for one in training if checkpoint.parent.parent.name == one.path.resolve().name]
    if not found and run.config:
        exported = _choices(run.config, run.path, [])
        found = [one for one in training if one.steps == run.steps and exported.items() <= choices[id(one)].items()]
    return found[0] if len(found) == 1 else None


def _models(members: Mapping[Hashable, Sequence[Any]], choices: Mapping[int, Choices]) -> dict[Hashable, Model]:
    chosen = {}
    for who, runs in members.items():
        own = dict(choices[id(runs[0])])
        if own.get(LEVELS) == 1:
            own.pop(LAMBDAS, None)
        chosen[who] = own
    labels = _labels(members, chosen)
    return {
        who: Model(
            labels[who],
            index,
            chosen[who],
            tuple(run.path for run in runs if isinstance(run, TrainingRun)),
        )
        for index, (who, runs) in enumerate(members.items())
    }


def _labels(members: Mapping[Hashable, Sequence[Any]], chosen: Mapping[Hashable, Choices]) -> dict[Hashable, str]:
    """Names from what differs in model and loss; for equal ones also sizes, λ, all that differs, the folder."""
    keys = differing(list(chosen.values()))
    sizes = [key for key in keys if key.startswith("model.transforms.") and not key.endswith(".name")]
    first = [key for key in keys if key.startswith(("model.", "loss.")) and key not in (LAMBDAS, *sizes)]
    labels = {who: _label(chosen[who], first, members[who]) for who in members}
    for more in ([*first, *sizes], [*first, *sizes, LAMBDAS], keys, None):
        counts = Counter(labels.values())
        for who, runs in members.items():
            if counts[labels[who]] > 1:
                folder = str(runs[0].path)
                labels[who] = f"{labels[who]} ({folder})" if more is None else _label(chosen[who], more, runs)
    return labels


def _label(choices: Choices, keys: Sequence[str], runs: Sequence[Any]) -> str:
    joined = choices.get(LEVELS) == 1
    words = ["fixed rate"] if joined else []
    # Without a context is how models are; a fixed-rate one has no gain units.
    silent = {("model.context.name", "none")} | (
        {(key, choices.get(key)) for key in (LEVELS, GAIN)} if joined else set()
    )
    told = [(key, choices[key]) for key in keys if key in choices]
    words += [say(key, value) for key, value in told if (key, _frozen(value)) not in silent]
    if words:
        return ", ".join(words)
    ours = next(
        (curve.name for run in runs if isinstance(run, EvaluationRun) for curve in run.curves if curve.is_ours), ""
    )
    trained = next((run.path.name for run in runs if isinstance(run, TrainingRun)), "")
    return trained or ours


def say(key: str, value: Any) -> str:
    r"""A choice in a few words, for the name of a curve.

    >>> say("model.gain.levels", 6), say("model.context.name", "none"), say("optimizer.lr", 0.001)
    ('n\xa0=\xa06', 'no context', 'lr 0.001')
    """
    if key == LEVELS:
        return f"n\u00a0=\u00a0{value}"
    if key == LAMBDAS:
        return f"λ {span(value)}"
    if key == GAIN:
        return str(value).upper()
    if key == "model.context.name":
        return "no context" if value == "none" else str(value)
    if key == "loss.level_sampling":
        return "levels stratified" if value == "stratified" else f"levels per {value}"
    if key.endswith(".name") or key == ENTROPY:
        return str(value)
    return f"{key.rpartition('.')[2]} {value}"


def span(values: Sequence[float]) -> str:
    """The first and the last of some numbers, or the only one.

    >>> span([0.0003, 0.01, 0.05]), span([0.007])
    ('0.0003–0.05', '0.007')
    """
    ends = dict.fromkeys((values[0], values[-1]))
    return "–".join(f"{end:g}" for end in ends)


def _note_ladders(models: Sequence[Model], notes: list[str]) -> None:
    by_loss: dict[str, dict[str, list[str]]] = {}
    for model in models:
        if lambdas := model.choices.get(LAMBDAS):
            ladders = by_loss.setdefault(str(model.choices.get("loss.name")), {})
            ladders.setdefault(span(lambdas), []).append(model.label)
    for ladders in by_loss.values():
        if len(ladders) > 1:
            words = "; ".join(f"{ends} in {', '.join(labels)}" for ends, labels in ladders.items())
            notes.append(f"λ ladders differ ({words}): a BD-rate is over the quality that both curves reach")


# ------------------------------------------------ what it was measured on


def _panel(run: TrainingRun | EvaluationRun) -> tuple[Hashable, Panel]:
    """The panel that a run's curves belong in, and what identifies it."""
    if isinstance(run, EvaluationRun):
        count = f"{len(run.images)} image{'s' * (len(run.images) > 1)}" if run.images else "images"
        published = published_curves() if slug(run.dataset) == "kodak" else ()
        words = f"{count}, real files: header and all, metrics on the decoded 8-bit pictures."
        if published and run.images and len(run.images) != KODAK_IMAGES:
            words += f" The published curves are means over all {KODAK_IMAGES} images."
        return (run.dataset, run.images), Panel(run.dataset, words, True, published=published)
    data = run.config.get("data") or {}
    if not data:
        return "unknown", Panel("Validation", "Images unknown, the models' own rates.", False)
    where = data.get("val_root") or data.get("root")
    name = data.get("name") if data.get("name") and not data.get("val_root") else where and Path(where).name
    name = str(name or data.get("layout"))
    crop = f", centre crops of at most {data['val_crop']} pixels a side" if data.get("val_crop") else ""
    whole = slug(name) == "kodak" and not data.get("val_crop") and (data.get("val_images") or 24) >= KODAK_IMAGES
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
    keys = ("bpp", *METRICS)
    nothing: list[float] = []
    values = [(one.results.get(key, nothing), other.results.get(key, nothing)) for key in keys]
    return all(len(a) == len(b) and np.allclose(a, b, equal_nan=True) for a, b in values)


def _measured(
    model: Model, found: Sequence[tuple[Any, Curve]], choices: Mapping[int, Choices], notes: list[str]
) -> MeasuredModel:
    if not model.joined:
        for run, _ in found[1:]:
            notes.append(f"{run.path}: {model.label} was measured on these images before: left out")
        curve = replace(found[0][1], name=model.label)
        qualities = curve.results.get("quality", [])
        return MeasuredModel(model, curve, tuple(_place(quality) for quality in qualities))
    by_lambda: dict[float, Curve] = {}
    for run, curve in found:
        value = choices[id(run)].get(LAMBDAS, [math.nan])[0]
        if value in by_lambda:
            notes.append(f"{run.path}: there is a fixed-rate model with λ = {value:g} already: left out")
        else:
            by_lambda[value] = curve
    ordered = sorted(by_lambda.items())
    keys = ("bpp", *METRICS)
    results = {key: [curve.results.get(key, [math.nan])[0] for _, curve in ordered] for key in keys}
    points = tuple(f"λ = {value:g}" for value, _ in ordered)
    return MeasuredModel(model, Curve(model.label, "one model per λ", results), points)


def _place(quality: float) -> str:
    if quality % 1 == 0:
        return f"quality {quality:g}, a trained level"
    return f"quality {quality:g}, between levels {math.floor(quality)} and {math.ceil(quality)}"


# ----------------------------------------------------- what it is worth


def _groups(measured: Sequence[MeasuredModel], key: str) -> list[Group]:
    """Groups that differ in `key` alone, or in what cannot but differ with it."""
    bound = {LEVELS: (LAMBDAS, GAIN), "loss.name": (LAMBDAS,)}.get(key, ())
    # A fixed-rate model has no gain unit: it is beside models with either kind.
    gains = {m.model.choices.get(GAIN) for m in measured if not m.model.joined} if key == LEVELS else set()
    groups: dict[Hashable, list[MeasuredModel]] = {}
    for one in measured:
        if key in one.model.choices:
            rest = _without(one.model.choices, key, *bound)
            for gain in (gains if one.model.joined else {one.model.choices.get(GAIN)}) if gains else {None}:
                groups.setdefault((gain, rest), []).append(one)
    found = []
    for members in groups.values():
        values = {_frozen(one.model.choices[key]) for one in members}
        if len(values) > 1:
            found.append(_group(members, key, bound))
    return found


def _group(members: list[MeasuredModel], key: str, bound: Sequence[str]) -> Group:
    baseline = _BASELINES.get(key)

    def place(one: MeasuredModel) -> tuple:
        value = one.model.choices[key]
        return value != baseline, _sortable(value), one.model.index

    ordered = sorted(members, key=place)
    anchor = ordered[0].curve
    rows = [
        (
            one.model.choices[key],
            one,
            {metric: None if one is ordered[0] else bd_rate(anchor, one.curve, metric) for metric in METRICS},
        )
        for one in ordered
    ]
    choices = [one.model.choices for one in members]
    shared = set.intersection(*(set(chosen) for chosen in choices))
    return Group({name: choices[0][name] for name in shared - {key, *bound}}, rows)


def _sortable(value: Any) -> tuple:
    return (0, value, "") if isinstance(value, int | float) else (1, 0, str(value))


def _matching(measured: MeasuredModel, fixed: Sequence[MeasuredModel]) -> Curve | None:
    """The curve of the fixed-rate models that share all of this model's choices but those of its gain units."""
    keys = (LEVELS, GAIN, LAMBDAS)
    own = _without(measured.model.choices, *keys)
    return next((one.curve for one in fixed if _without(one.model.choices, *keys) == own), None)


def _gap(curve: Curve, fixed: Curve | None) -> Gap | str | None:
    """None for a curve without qualities between levels, and a reason where there is no loss to be had."""
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
    """Mean over the points of `test` of the difference in rate at equal PSNR, in percent."""
    metric = "psnr-rgb"
    expected = pchip(quality_db(anchor, metric), np.log(anchor.results["bpp"]), quality_db(test, metric))
    ratio = np.log(test.results["bpp"]) - expected
    return 100 * math.expm1(np.nanmean(ratio)) if np.isfinite(ratio).any() else None
