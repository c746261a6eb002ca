"""Collects the folders that `train.py` and `evaluate.py` write. Damaged or missing parts become notes."""

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agvae.errors import DataError
from agvae.evaluation import Curve
from agvae.evaluation.rd import RESULTS
from agvae.evaluation.validation import SHORT, rd_curve
from agvae.facts import RUN_FILE

Scalars = dict[str, list[tuple[int, float]]]

_RUN_MARKS = (".hydra", "rd.csv", "results")
_INSIDE_A_RUN = ("checkpoints", "csv", "results", "tensorboard", "wandb")
_CONFIG = Path(".hydra") / "config.yaml"
_RESOLVED = Path("config.yaml")  # of train.py, because Hydra's own file contains the interpolations of a sweep
_RD_COLUMNS = ("quality", "bpp", *SHORT.values())
_CURVE_KEYS = (*RESULTS, "quality", "estimated_bpp")


@dataclass(frozen=True)
class TrainingRun:
    """A run of `train.py`.

    `config` is conf/train.yaml as the run resolved it, as nested dictionaries, and `facts` are those of its model
    (`agvae.facts`). `curve` is its last complete validation, at step `curve_step`, or None. `scalars` has the values of
    its CSV logger, {metric: [(step, value)]} by rising step. `gains` has the gain vectors m and m′ of its last
    checkpoint, each (levels, channels). `steps` is the last step that the folder shows."""

    path: Path
    config: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    curve: Curve | None = None
    curve_step: int | None = None
    scalars: Scalars = field(default_factory=dict)
    gains: dict[str, np.ndarray] = field(default_factory=dict)
    steps: int = 0

    @property
    def lambdas(self) -> list[float] | None:
        """λ of each level, or None if it is unknown."""
        return (self.facts.get("loss") or {}).get("lambdas")


@dataclass(frozen=True)
class EvaluationRun:
    """One data set of a run of `evaluate.py`.

    `images` are the names of its images, or None if per_image.csv is missing. `curves` are the means over them, one per
    codec. `facts` are those of the model (`agvae.facts`), and `checkpoint` is its name on the command line."""

    path: Path
    dataset: str
    images: frozenset[str] | None
    curves: tuple[Curve, ...]
    checkpoint: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Runs:
    """All runs below some folders. `notes` has a sentence on everything that could not be used."""

    training: list[TrainingRun] = field(default_factory=list)
    evaluation: list[EvaluationRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, path: Path, words: str) -> None:
        self.notes.append(f"{path}: {words}")


def read_runs(folders: Sequence[str | Path]) -> Runs:
    """Every run in `folders` and below, in the order of their names.

    Raises DataError if none of them can be used."""
    runs = Runs()
    seen: set[Path] = set()
    for folder in map(Path, folders):
        if not folder.is_dir():
            runs.note(folder, "is a file; give the folder of a run" if folder.exists() else "no such folder")
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
        # Unresolved, because values such as ${run_dir} have a meaning only while Hydra runs.
        config: Any = OmegaConf.to_container(OmegaConf.load(path / name))
    except Exception as error:  # PyYAML's, OmegaConf's and the file system's
        runs.note(path, f"{name} cannot be read ({_first_line(error)}): its configuration is unknown")
        return {}
    return config if isinstance(config, dict) else {}


def _read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object. Raises OSError, and ValueError for anything else."""
    content = json.loads(file.read_text())
    if not isinstance(content, dict):
        raise ValueError("it must hold a JSON object")
    return content


# ------------------------------------------------------------ training


def _read_training(path: Path, config: dict[str, Any], runs: Runs) -> None:
    if not any(any(path.glob(mark)) for mark in ("rd.csv", "checkpoints/*.ckpt", "csv/version_*/metrics.csv")):
        runs.note(path, "holds only its configuration: left out")
        return
    scalars = _read_scalars(path, runs)
    checkpoint = _read_checkpoint(path, runs)
    curve, step = _read_rd(path, runs)
    logged = max((points[-1][0] + 1 for points in scalars.values()), default=0)
    steps = max(checkpoint.get("global_step", 0), logged, step or 0)
    if not (curve or scalars or checkpoint):
        runs.note(path, "holds no readable file but its configuration: left out")
        return
    wanted = (config.get("trainer") or {}).get("max_steps") or 0
    if 0 < steps < wanted:
        runs.note(path, f"ended at step {steps:,} of {wanted:,}")
    facts = _run_facts(path, config, checkpoint, runs)
    runs.training.append(TrainingRun(path, config, facts, curve, step, scalars, _gains(checkpoint), steps))


def _run_facts(path: Path, config: Mapping[str, Any], checkpoint: Mapping[str, Any], runs: Runs) -> dict[str, Any]:
    """The facts in run.json. If an older version or a damaged file has none, those in the checkpoint and the
    configuration."""
    known = {key: config[key] for key in ("model", "loss") if key in config}
    known |= {k: v for k, v in checkpoint.get("hyper_parameters", {}).items() if k in ("model", "loss")}
    known |= {"run": checkpoint["run"]} if "run" in checkpoint else {}
    try:
        return known | _read_json(path / RUN_FILE)
    except FileNotFoundError:
        runs.note(
            path, f"has no {RUN_FILE}, so an older version trained it: evaluations of its model are listed separately"
        )
    except (OSError, ValueError) as error:
        runs.note(
            path, f"{RUN_FILE} cannot be read ({_first_line(error)}): evaluations of its model are listed separately"
        )
    return known


def _read_rd(path: Path, runs: Runs) -> tuple[Curve | None, int | None]:
    """The last complete validation of rd.csv and its step."""
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
    # If a step or quality occurs twice, a resumed run repeated it.
    validations: dict[int, dict[float, dict[str, float]]] = {}
    broken = 0
    for line in lines:
        try:
            point = {name: float(line[name]) for name in _RD_COLUMNS if name in columns}
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
    points = validations[steps[-1]]
    return rd_curve([points[quality] for quality in sorted(points)], path.name), steps[-1]


def _read_scalars(path: Path, runs: Runs) -> Scalars:
    """All versions of metrics.csv as one. A resumed run starts a new version, which replaces the older ones from its
    first step on."""
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
    """The newest checkpoint. It is mapped, so only the parts in use are read from disk."""
    import torch

    files = [path / "checkpoints" / f"{name}.ckpt" for name in ("last", "best")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        runs.note(path, "has no checkpoint: it has no gain vectors to show")
        return {}
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load raises almost anything on a damaged file
        runs.note(path, f"{file.name} cannot be read ({type(error).__name__}): it has no gain vectors to show")
        return {}


def _gains(checkpoint: dict[str, Any]) -> dict[str, np.ndarray]:
    """m and m′ of the latent, as an export would have them."""
    state = checkpoint.get("state_dict", {})
    weights = checkpoint.get("ema") or {name.removeprefix("model."): value for name, value in state.items()}
    names = {"gain": "gain.log_gain", "inverse": "gain.log_inverse"}
    return {key: weights[name].double().exp().numpy() for key, name in names.items() if name in weights}


# ---------------------------------------------------------- evaluation


def _read_evaluation(path: Path, runs: Runs) -> None:
    summary = _read_summary(path, runs)
    images = _read_images(path)
    found = False
    for folder in sorted(path.glob("results/*/")):
        curves = tuple(curve for file in sorted(folder.glob("*.json")) if (curve := _read_curve(file, path, runs)))
        if curves:
            found = True
            dataset = str(summary.get("dataset", folder.name))
            facts = summary.get("facts", {})
            runs.evaluation.append(EvaluationRun(path, dataset, images, curves, summary.get("checkpoint"), facts))
    if not found:
        runs.note(path, "is an evaluation that did not finish and has no results: left out")


def _read_summary(path: Path, runs: Runs) -> dict[str, Any]:
    try:
        summary = _read_json(path / "summary.json")
    except (OSError, ValueError) as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({_first_line(error)})"
        runs.note(path, f"summary.json {why}: the model that it evaluated is unknown")
        return {}
    if summary.get("interrupted"):
        runs.note(path, f"was interrupted: its means cover {summary.get('images')} images")
    if skipped := summary.get("skipped"):
        runs.note(path, f"left out {len(skipped)} image{'s' * (len(skipped) > 1)} that could not be read or coded")
    if "facts" not in summary:
        runs.note(path, "an older version wrote summary.json: the training run of its model is unknown")
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
        curve = Curve.from_dict(_read_json(file))
        lengths = {len(values) for values in curve.results.values()}
        if "bpp" not in curve.results or len(lengths) != 1:
            raise ValueError("bpp is missing, or its lists differ in length")
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        runs.note(path, f"{name} is not a curve in the RD schema ({_first_line(error)}): left out")
        return None
    for key in sorted(curve.results.keys() - set(_CURVE_KEYS)):
        runs.note(path, f"{name} has the unknown metric {key}: left out")
    return curve


def _first_line(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def finite(values: Sequence[float]) -> list[float]:
    """The values that are neither NaN nor infinite."""
    return [value for value in values if math.isfinite(value)]
