"""The choices of a model's configuration: which of them differ between models, and their names on the page."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from agvae.facts import flat

LEVELS, GAIN, ENTROPY, LAMBDAS = "model.gain.levels", "model.gain.name", "model.entropy", "loss.lambdas"
CONTEXT = "model.context.name"

_SECTIONS = ("model", "init_from", "loss", "data", "optimizer", "scheduler", "ema", "validation", "trainer", "seed")
# How a run loads data and validates is not a property of its model. The other keys here follow from λ.
_IGNORED = {f"data.{key}" for key in ("cache", "cache_gib", "cache_dir", "num_workers", "shuffle_shards", "download")}
_IGNORED |= {"data.val_images", "data.val_crop", "validation.qualities"}
_IGNORED |= {f"loss.{key}" for key in ("ladder", "level_weights", "distortion")}
_TRAINER = ("max_steps", "max_epochs", "max_time", "precision", "accumulate_grad_batches", "gradient_clip_val")
_NAMES = {LEVELS: "gain vectors, n", GAIN: "gain", ENTROPY: "entropy", LAMBDAS: "λ"}

Choices = dict[str, Any]


def choices_of(config: Mapping[str, Any]) -> Choices:
    """The choices of a configuration by dotted key: entropy as one word, and λ of each level, or no λ if it is
    unknown."""
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
    if lambdas := kept.pop(LAMBDAS, None):
        kept[LAMBDAS] = [float(f"{value:.4g}") for value in (lambdas if isinstance(lambdas, list) else [lambdas])]
    return kept


def without(choices: Choices, *keys: str) -> Hashable:
    """A value that is equal for choices that differ only in `keys`."""
    return tuple(sorted((key, repr(value)) for key, value in choices.items() if key not in keys))


def frozen(value: Any) -> Hashable:
    """The value of a choice, made hashable."""
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def differing(chosen: Sequence[Choices]) -> list[str]:
    """Keys that have more than one known value. Those of the model come first."""
    keys = dict.fromkeys(key for choices in chosen for key in choices)
    found = [key for key in keys if len({frozen(choices[key]) for choices in chosen if key in choices}) > 1]
    return sorted(found, key=lambda key: _SECTIONS.index(key.partition(".")[0]))


def short_names(chosen: Sequence[Choices], folders: Sequence[str], names: Sequence[str]) -> list[str]:
    """A unique name for each model: the choices that distinguish it from most others.

    A choice that most models share appears in no name. A model with only such choices is called "usual choices".
    Choices of the model and the loss come first. If names are equal, sizes, λ, all others and finally the folder are
    added. `names` are for models whose choices are unknown."""
    keys = differing(chosen)
    sizes = [key for key in keys if key.startswith("model.transforms.") and not key.endswith(".name")]
    first = [key for key in keys if key.startswith(("model.", "loss.")) and key not in (LAMBDAS, *sizes)] or keys
    usual = _usual(chosen, keys)
    found = [_name(choices, first, usual) or name for choices, name in zip(chosen, names, strict=True)]
    for more in ([*first, *sizes], [*first, *sizes, LAMBDAS], keys, None):
        counts = Counter(found)
        for i, name in enumerate(found):
            if counts[name] > 1:
                found[i] = f"{name} ({folders[i]})" if more is None else _name(chosen[i], more, usual) or name
    return found


def _usual(chosen: Sequence[Choices], keys: Sequence[str]) -> set[tuple[str, Hashable]]:
    """The values that more than half of the models have."""
    counts = Counter((key, frozen(choices[key])) for choices in chosen for key in keys if key in choices)
    return {pair for pair, count in counts.items() if 2 * count > len(chosen)}


def _name(choices: Choices, keys: Sequence[str], usual: set[tuple[str, Hashable]]) -> str:
    fixed = choices.get(LEVELS) == 1
    # Most models have no context, and fixed-rate models have no gain units.
    silent = {(CONTEXT, "none")} | ({(key, choices.get(key)) for key in (LEVELS, GAIN)} if fixed else set())
    told = [(key, choices[key]) for key in keys if key in choices and (key, frozen(choices[key])) not in silent]
    rare = [(key, value) for key, value in told if (key, frozen(value)) not in usual]
    words = ["fixed rate"] if fixed else []
    words += [say(key, value) for key, value in rare]
    return ", ".join(words) or ("usual choices" if told else "")


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
    if key == CONTEXT:
        return "no context" if value == "none" else str(value)
    if key == "loss.level_sampling":
        return "levels stratified" if value == "stratified" else f"levels per {value}"
    if key.endswith(".name") or key == ENTROPY:
        return str(value)
    return f"{key.rpartition('.')[2]} {value}"


def key_name(key: str) -> str:
    """The name of a choice as a heading."""
    return _NAMES.get(key) or key.removeprefix("model.").removesuffix(".name")


def span(values: Sequence[float]) -> str:
    """The first and the last of some numbers, or the only one.

    >>> span([0.0003, 0.01, 0.05]), span([0.007])
    ('0.0003–0.05', '0.007')
    """
    ends = dict.fromkeys((values[0], values[-1]))
    return "–".join(f"{end:g}" for end in ends)
