"""A run prints how long it takes and which parts of its schedule do not fit. A failed run leaves no empty folder."""

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from agvae.configuration.command import _remove_if_empty
from agvae.training import pace
from agvae.training.budget import Budget
from agvae.training.messages import _too_long

ROOT = Path(__file__).parents[1]


def trainer(step: int, total: float, device: str = "cpu", max_time=None) -> SimpleNamespace:
    callbacks = [] if max_time is None else [Budget(max_time, clock=lambda: 0.0)]
    strategy = SimpleNamespace(root_device=torch.device(device))
    return SimpleNamespace(global_step=step, estimated_stepping_batches=total, strategy=strategy, callbacks=callbacks)


@pytest.mark.parametrize(
    ("run", "line"),
    [
        (trainer(21, 1021), "pace:       0.5 steps a second, 1,000 steps to go: 33 min"),
        (trainer(21, 100021), "pace:       0.5 steps a second, 100,000 steps to go: 2 days 7 h; experiment=quickstart"),
        (trainer(21, math.inf), "pace:       0.5 steps a second"),
        (trainer(21, math.inf, max_time=600), "pace:       0.5 steps a second, 300 steps to go: 10 min"),
        (trainer(21, 1e5, max_time=7200), "pace:       0.5 steps a second, 3,600 steps to go: 2 h 0 min"),
        (trainer(21, 31, max_time=600), "pace:       0.5 steps a second, 10 steps to go: 20 s"),
    ],
)
def test_a_run_says_once_how_long_it_takes(run, line, monkeypatch, capsys):
    clock = iter([0.0, 6.0, 12.0])
    monkeypatch.setattr(pace, "is_accumulating", lambda trainer: False)
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(clock))
    callback, last = pace.Pace(), run.global_step
    callback.on_train_start(run, None)
    for before in (6, 3, 0, 0):  # the first step is not measured
        run.global_step = last - before
        callback.on_train_batch_end(run, None)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(line)
    assert ("meant for a CPU" in lines[0]) == ("2 days" in line)


def test_a_gpu_is_not_told_of_experiments_for_a_cpu(monkeypatch, capsys):
    callback = pace.Pace()
    callback.steps, callback.seconds = 20, 10.0
    callback._say(trainer(21, 1e6, "cuda"))
    assert "meant for a CPU" not in capsys.readouterr().out


def test_a_schedule_that_does_not_fit_into_the_run_is_said():
    assert list(_too_long({"warmup_steps": 200, "total_steps": None}, 1000)) == []
    (line,) = _too_long({"warmup_steps": 200}, 100)
    assert "scheduler.warmup_steps=200 is longer than the run of 100 steps" in line
    (line,) = _too_long({"warmup_steps": 0, "total_steps": 5000}, 100)
    assert "scheduler.total_steps=5000" in line
    assert list(_too_long({"warmup_steps": 200}, -1)) == []


def test_only_a_run_folder_without_files_is_removed(tmp_path):
    for name in ("empty", "kept"):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / ".hydra" / "config.yaml").touch()
        (tmp_path / name / "checkpoints").mkdir()
    (tmp_path / "kept" / "checkpoints" / "last.ckpt").touch()
    for name in ("empty", "kept"):
        _remove_if_empty(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_ctrl_c_while_packages_are_imported_is_quiet(script, tmp_path):
    (tmp_path / "hydra.py").write_text("raise KeyboardInterrupt\n")  # replaces the first package that is imported
    code = f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); runpy.run_path({str(ROOT / script)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode not in (0, 1)
    assert done.stderr == ""
