"""Reads the folders that `train.py` and `evaluate.py` leave; what is missing or damaged is noted, the rest is kept."""

import csv
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agvae.errors import DataError
from agvae.evaluation import Curve
from agvae.evaluation.rd import RESULTS

Scalars = dict[str, list[tuple[int, float]]]

_RUN_MARKS = (".hydra", "rd.csv", "results")
_INSIDE_A_RUN = ("checkpoints", "csv", "results", "tensorboard", "wandb")
_CONFIG = Path(".hydra") / "config.yaml"
_RESOLVED = Path("config.yaml")  # of train.py: Hydra's own has the interpolations of a sweep in it
_RD_COLUMNS = {"quality": "quality", "bpp": "bpp", "psnr": "psnr-rgb", "ms_ssim": "ms-ssim-rgb"}
_CURVE_KEYS = (*RESULTS, "quality", "estimated_bpp")


@dataclass(frozen=True)
class TrainingRun:
    """A run of `train.py`.

    `config` is conf/train.yaml as the run resolved it, as nested dictionaries; `curve` its last whole validation, at
    step `curve_step`, or None; `scalars` what its CSV logger kept, {metric: [(step, value)]} by rising step; `gains`
    the gain vectors m and m′ of its last checkpoint, each (levels, channels), if it has them; `steps` how far it came.
    """

    path: Path
    config: dict[str, Any]
    curve: Curve | None = None
    curve_step: int | None = None
    scalars: Scalars = field(default_factory=dict)
    gains: dict[str, np.ndarray] = field(default_factory=dict)
    steps: int = 0


@dataclass(frozen=True)
class EvaluationRun:
    """One data set of a run of `evaluate.py`.

    `images` are the names of its images, None if no one wrote them down, and `curves` the means over them, one per
    codec. `checkpoint` is what was evaluated, as the command line named it, and `config` the model and loss that a
    model file at that place says it has.
    """

    path: Path
    dataset: str
    images: frozenset[str] | None
    curves: tuple[Curve, ...]
    checkpoint: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None


@dataclass
class Runs:
    """All runs below some folders, and in `notes` a sentence on everything that could not be used."""

    training: list[TrainingRun] = field(default_factory=list)
    evaluation: list[EvaluationRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, path: Path, words: str) -> None:
        self.notes.append(f"{path}: {words}")


def read_runs(folders: Sequence[str | Path]) -> Runs:
    """Every run in `folders` and below, in the order of their names.

    Raises DataError if none of them can be used."""
    runs = Runs()
    seen = set()
    for folder in map(Path, folders):
        if not folder.is_dir():
            runs.note(folder, "is a file, and a report is made of folders" if folder.exists() else "no such folder")
            continue
        before = len(seen), len(runs.notes)
        for path in _run_folders(folder, runs):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                _read_run(path, runs)
        if (len(seen), len(runs.notes)) == before:
            runs.note(folder, "holds no run of train.py or evaluate.py")
    if not runs.training and not runs.evaluation:
        more = f" (and {len(runs.notes) - 1} more)" if len(runs.notes) > 1 else ""
        raise DataError(f"there is nothing to report: {runs.notes[0]}{more}")
    return runs


def _run_folders(folder: Path, runs: Runs) -> Iterator[Path]:
    for name, folders, files in os.walk(folder):
        path = Path(name)
        if any((path / mark).exists() for mark in _RUN_MARKS):
            yield path
            folders[:] = [inner for inner in folders if inner not in _INSIDE_A_RUN]
        elif not folders and not files:
            runs.note(path, "is empty")
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))


def _read_run(path: Path, runs: Runs) -> None:
    config = _read_config(path, runs)
    if "model" in config or (path / "rd.csv").exists():
        _read_training(path, config, runs)
    elif "checkpoint" in config or (path / "results").exists():
        _read_evaluation(path, runs)
    elif config:
        runs.note(path, "is neither a training run nor an evaluation: left out")


def _read_config(path: Path, runs: Runs) -> dict[str, Any]:
    from omegaconf import OmegaConf

    name = _RESOLVED if (path / _RESOLVED).is_file() else _CONFIG
    if not (path / name).is_file():
        runs.note(path, f"has no {name}: its configuration is unknown")
        return {}
    try:
        # Unresolved: ${run_dir} and the like have a meaning only while Hydra runs.
        config = OmegaConf.to_container(OmegaConf.load(path / name))
    except Exception as error:  # PyYAML's, OmegaConf's and the file system's
        runs.note(path, f"{name} cannot be read ({_first_line(error)}): its configuration is unknown")
        return {}
    return config if isinstance(config, dict) else {}


# ------------------------------------------------------------ training


def _read_training(path: Path, config: dict[str, Any], runs: Runs) -> None:
    if not any(any(path.glob(what)) for what in ("rd.csv", "checkpoints/*.ckpt", "csv/version_*/metrics.csv")):
        runs.note(path, "has nothing but its configuration: left out")
        return
    scalars = _read_scalars(path, runs)
    checkpoint = _read_checkpoint(path, runs)
    curve, step = _read_rd(path, runs)
    logged = max((points[-1][0] + 1 for points in scalars.values()), default=0)
    steps = max(checkpoint.get("global_step", 0), logged, step or 0)
    if not (curve or scalars or checkpoint):
        runs.note(path, "holds nothing that can be read but its configuration: left out")
        return
    if "model" not in config and "hyper_parameters" in checkpoint:
        config = checkpoint["hyper_parameters"]
    wanted = (config.get("trainer") or {}).get("max_steps") or 0
    if 0 < steps < wanted:
        runs.note(path, f"ended at step {steps:,} of {wanted:,}")
    gains = _gains(checkpoint)
    runs.training.append(TrainingRun(path, config, curve, step, scalars, gains, steps))


def _read_rd(path: Path, runs: Runs) -> tuple[Curve | None, int | None]:
    """The last whole validation of rd.csv and its step."""
    if not (path / "rd.csv").is_file():
        runs.note(path, "has no rd.csv, so it stopped before its first validation: it has no RD curve")
        return None, None
    with open(path / "rd.csv", newline="", errors="replace") as file:
        reader = csv.DictReader(file)
        lines = list(reader)
    columns = reader.fieldnames or []
    if missing := [name for name in ("step", "quality", "bpp") if name not in columns]:
        runs.note(path, f"rd.csv has no column {missing[0]}: it has no RD curve")
        return None, None
    for name in set(columns) - {"step", *_RD_COLUMNS}:
        runs.note(path, f"rd.csv has the unknown metric {name}: left out")
    # A step or quality that comes twice is that of a resumed run, which went over it once more.
    validations: dict[int, dict[float, dict[str, float]]] = {}
    broken = 0
    for line in lines:
        try:
            point = {key: float(line[name]) for name, key in _RD_COLUMNS.items() if name in columns}
            validations.setdefault(int(line["step"]), {})[point["quality"]] = point
        except (TypeError, ValueError):
            broken += 1
    if broken:
        runs.note(path, f"rd.csv has {broken} line{'s' * (broken > 1)} that cannot be read: left out")
    whole = max((len(points) for points in validations.values()), default=0)
    steps = sorted(step for step, points in validations.items() if len(points) == whole)
    if not steps:
        runs.note(path, "rd.csv holds no validation: it has no RD curve")
        return None, None
    for step in sorted(validations.keys() - set(steps)):
        runs.note(path, f"the validation at step {step:,} has {len(validations[step])} of {whole} qualities: left out")
    points = [validations[steps[-1]][quality] for quality in sorted(validations[steps[-1]])]
    results = {key: [point.get(key, math.nan) for point in points] for key in _RD_COLUMNS.values()}
    return Curve(path.name, "", results), steps[-1]


def _read_scalars(path: Path, runs: Runs) -> Scalars:
    """All versions of metrics.csv as one: a resumed run starts a new version, which holds from its first step on."""
    scalars: Scalars = {}
    for file in sorted(path.glob("csv/version_*/metrics.csv"), key=lambda file: (len(str(file)), file)):
        version: Scalars = {}
        try:
            with open(file, newline="") as stream:
                for row in csv.DictReader(stream):
                    step = int(row["step"])
                    for name, text in row.items():
                        if text and name not in ("step", "epoch"):
                            version.setdefault(name, []).append((step, float(text)))
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            runs.note(path, f"{file.relative_to(path)} cannot be read to its end ({_first_line(error)})")
        for name, points in version.items():
            first = points[0][0]
            scalars[name] = [point for point in scalars.get(name, []) if point[0] < first] + points
    return scalars


def _read_checkpoint(path: Path, runs: Runs) -> dict[str, Any]:
    """The newest checkpoint, mapped rather than read: only what is looked at comes from disk."""
    import torch

    files = [path / "checkpoints" / f"{name}.ckpt" for name in ("last", "best")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        runs.note(path, "has no checkpoint: it has no gain vectors to show")
        return {}
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load raises nearly anything on a damaged file
        runs.note(path, f"{file.name} cannot be read ({type(error).__name__}): it has no gain vectors to show")
        return {}


def _gains(checkpoint: dict[str, Any]) -> dict[str, np.ndarray]:
    """m and m′ of the latent, as export would take them."""
    state = checkpoint.get("state_dict", {})
    weights = checkpoint.get("ema") or {name.removeprefix("model."): value for name, value in state.items()}
    names = {"gain": "gain.log_gain", "inverse": "gain.log_inverse"}
    return {key: weights[name].double().exp().numpy() for key, name in names.items() if name in weights}


# ---------------------------------------------------------- evaluation


def _read_evaluation(path: Path, runs: Runs) -> None:
    summary = _read_summary(path, runs)
    images = _read_images(path)
    config, steps = _model_of(summary.get("checkpoint"))
    found = False
    for folder in sorted(path.glob("results/*/")):
        curves = tuple(curve for file in sorted(folder.glob("*.json")) if (curve := _read_curve(file, path, runs)))
        if curves:
            found = True
            dataset = str(summary.get("dataset", folder.name))
            run = EvaluationRun(path, dataset, images, curves, summary.get("checkpoint"), config, steps)
            runs.evaluation.append(run)
    if not found:
        runs.note(path, "is an evaluation without results, so it did not come to its end: left out")


def _read_summary(path: Path, runs: Runs) -> dict[str, Any]:
    try:
        summary = json.loads((path / "summary.json").read_text())
    except (OSError, ValueError) as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({_first_line(error)})"
        runs.note(path, f"summary.json {why}: which model it evaluated is unknown")
        return {}
    if summary.get("interrupted"):
        runs.note(path, f"was interrupted: its means are over {summary.get('images')} images")
    if skipped := summary.get("skipped"):
        runs.note(path, f"left out {len(skipped)} image{'s' * (len(skipped) > 1)} that could not be read or coded")
    return summary


def _read_images(path: Path) -> frozenset[str] | None:
    try:
        with open(path / "per_image.csv", newline="") as file:
            return frozenset(Path(row["image"]).name for row in csv.DictReader(file))
    except (OSError, KeyError):
        return None


def _read_curve(file: Path, path: Path, runs: Runs) -> Curve | None:
    name = file.relative_to(path)
    try:
        curve = Curve.from_dict(json.loads(file.read_text()))
        lengths = {len(values) for values in curve.results.values()}
        if "bpp" not in curve.results or len(lengths) != 1:
            raise ValueError("bpp is missing, or its lists differ in length")
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        runs.note(path, f"{name} is no curve of the RD schema ({_first_line(error)}): left out")
        return None
    for key in sorted(curve.results.keys() - set(_CURVE_KEYS)):
        runs.note(path, f"{name} has the unknown metric {key}: left out")
    return curve


def _model_of(checkpoint: str | None) -> tuple[dict[str, Any], int | None]:
    """Configuration ({"model", "loss"}) and training steps that a model file names, if it is still there."""
    if checkpoint is None or not checkpoint.endswith(".safetensors") or not Path(checkpoint).is_file():
        return {}, None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(checkpoint, framework="numpy") as file:
            metadata = json.loads((file.metadata() or {})["agvae"])
        return {"model": metadata["model"], "loss": metadata["info"]["loss"]}, metadata["info"].get("steps")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return {}, None


def _first_line(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
