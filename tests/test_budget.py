"""A time budget: the learning rate falls over it, a resumed run has the rest of it, and all ranks agree."""

import math
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from test_training import ROOT, TINY_RUN, At, assert_equal, configure, inject, load

from agvae.configuration.values import seconds
from agvae.engine import train
from agvae.errors import ConfigError
from agvae.training import budget
from agvae.training.budget import Budget
from agvae.training.checkpoints import Interrupted
from agvae.training.optimization import build_scheduler

__all__ = ["inject"]

COSINE = {"name": "cosine", "warmup_steps": 0, "total_steps": None, "final_factor": 0.1}
WSD = {"name": "wsd", "warmup_steps": 0, "total_steps": None, "decay_share": 0.4, "final_factor": 0.0}
MULTISTEP = {"name": "multistep", "warmup_steps": 0, "total_steps": None, "milestones": [0.5, 0.9], "factor": 0.1}


def rate(scheduler: dict, step: int, share: float, length: float) -> float:
    """The factor of the learning rate at a step and at a share of the time."""
    optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1.0} for _ in range(2)])
    return build_scheduler(scheduler, optimizer, lambda: length, lambda: share).lr_lambdas[0](step)


@pytest.mark.parametrize(
    ("scheduler", "factors"),
    [(COSINE, (1, 0.55, 0.1)), (WSD, (1, 1, 0)), (WSD | {"decay_share": 1}, (1, 0.5, 0)), (MULTISTEP, (1, 0.1, 0.01))],
)
def test_the_rate_follows_the_further_one_of_steps_and_time(scheduler, factors):
    for share, factor in zip((0, 0.5, 1), factors, strict=True):
        assert rate(scheduler, 7, share, math.inf) == pytest.approx(factor)
        assert rate(scheduler, 1, share, 1e9) == pytest.approx(factor)
        assert rate(scheduler, int(100 * share), share / 2, 100) == pytest.approx(factor)
        assert rate(scheduler, int(100 * share), 0, 100) == pytest.approx(factor)


def test_a_schedule_of_its_own_length_and_a_constant_one_ignore_the_time():
    assert rate(WSD | {"total_steps": 100}, 0, 1, math.inf) == 1
    assert rate({"name": "constant", "warmup_steps": 0}, 0, 1, math.inf) == 1


def test_the_warm_up_is_one_of_steps():
    assert rate(COSINE | {"warmup_steps": 9}, 4, 0.01, math.inf) == 0.5


@pytest.mark.parametrize("wrong", ["", "9", "min", "0s", "9 min", "1.5h", "00:00:00", "00:00:00:00", "30min1h"])
def test_times_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="must be a time above 0"):
        seconds(wrong)


# --- whole runs, with a clock that the test moves


class Clock(Callback):
    """A clock that moves by `tick` seconds in each step. It also records the learning rate of each step."""

    def __init__(self, tick: float = 2.0):
        self.now, self.tick, self.rates = 1000.0, tick, []

    def on_train_batch_start(self, trainer, *_):
        self.now += self.tick
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.fixture
def clock(monkeypatch, inject):
    """The clock of the runs that `train` starts."""
    clock = Clock()
    monkeypatch.setattr(Budget.__init__, "__defaults__", (lambda: clock.now,))
    inject(clock)
    return clock


TEN_SECONDS = ["scheduler=cosine", "scheduler.warmup_steps=0", "trainer.max_time=10s", "trainer.limit_val_batches=0"]


def test_a_run_ends_with_its_time_its_lowest_rate_and_a_validation(tmp_path, clock):
    options = ["scheduler.final_factor=0", "trainer.max_steps=-1", "trainer.limit_val_batches=1"]
    trainer = train(configure(tmp_path, *TEN_SECONDS, *options))
    assert (tmp_path / "rd.csv").read_text().splitlines()[-1].startswith("5,5,")
    assert trainer.global_step == load(tmp_path)["global_step"] == 5
    assert clock.rates == pytest.approx([1e-3 * (1 + math.cos(math.pi * step / 5)) / 2 for step in range(5)])
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0


def test_a_run_whose_steps_end_first_follows_these(tmp_path, clock):
    options = [*TEN_SECONDS, "trainer.max_steps=3"]
    trainer = train(configure(tmp_path / "timed", *options))
    train(configure(tmp_path / "plain", *options, "trainer.max_time=null"))
    assert trainer.global_step == 3
    assert clock.rates[:3] == clock.rates[3:]
    assert_equal(load(tmp_path / "timed")["state_dict"], load(tmp_path / "plain")["state_dict"])


def test_a_resumed_run_goes_on_with_the_rest_of_the_time(tmp_path, clock, inject, capsys):
    train(configure(tmp_path / "whole", *TEN_SECONDS, "trainer.max_steps=100"))
    whole, clock.rates = clock.rates, []
    inject(clock, At(3, lambda: os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(Interrupted):
        train(configure(tmp_path / "cut", *TEN_SECONDS, "trainer.max_steps=100"))
    assert load(tmp_path / "cut")["global_step"] == 3
    clock.now += 12345
    inject(clock)
    train(configure(tmp_path / "cut", *TEN_SECONDS, "trainer.max_steps=100", "ckpt_path=last"))
    assert clock.rates == whole
    assert_equal(load(tmp_path / "cut")["state_dict"], load(tmp_path / "whole")["state_dict"])
    assert "ckpt_path=" not in capsys.readouterr().out.rpartition("stopped:")[2]


def test_a_run_whose_time_is_used_needs_a_longer_one(tmp_path, clock):
    train(configure(tmp_path, *TEN_SECONDS))
    with pytest.raises(ConfigError, match=r"has used 10 s, and trainer\.max_time=10s"):
        train(configure(tmp_path, *TEN_SECONDS, "ckpt_path=last"))
    train(configure(tmp_path, *TEN_SECONDS, "trainer.max_time=12s", "ckpt_path=last"))
    assert load(tmp_path)["global_step"] == 6


def test_everything_from_the_start_of_fit_counts(tmp_path, clock, inject):
    class Compiler(Callback):
        def on_train_start(self, trainer, module):
            clock.now += 7

    inject(Compiler(), clock)
    trainer = train(configure(tmp_path, *TEN_SECONDS))
    assert trainer.global_step == 2


# --- several ranks


def ranks(count: int, seconds: float, paces: list[float], steps: int) -> list[list[float]]:
    """The share of the time at each step for each rank, and the shares sent. `paces` are seconds per step by rank."""
    clocks = [SimpleNamespace(now=100.0 * rank) for rank in range(count)]
    budgets = [Budget(seconds, clock=lambda c=c: c.now) for c in clocks]
    seen, sent = [[] for _ in range(count)], []

    def broadcast(rank):
        def send(value):
            if rank == 0:
                sent.append(value)
            return sent[-1]

        return send

    for one in budgets:
        one.on_fit_start(None, None)
    for step in range(steps):
        for rank, (one, clock, pace) in enumerate(zip(budgets, clocks, paces, strict=True)):
            clock.now += pace
            trainer = SimpleNamespace(global_step=step, strategy=SimpleNamespace(broadcast=broadcast(rank)))
            one.on_before_optimizer_step(trainer, None, None)
            seen[rank].append(one.share)
    return [*seen, sent]


def test_all_ranks_have_the_share_of_the_first():
    first, second, sent = ranks(2, 100.0, [0.5, 3.0], 50)
    assert first == second == [(step + 1) / 200 for step in range(50)]
    assert len(sent) == 50


def test_quick_steps_do_not_look_at_the_clock_each_time():
    first, second, sent = ranks(2, 10_000.0, [1 / 64, 1 / 64], 6400)
    assert first == second
    assert 90 < len(sent) < 110
    assert all(abs(share - (step + 1) / 64 / 10_000) <= 1.1 / 10_000 for step, share in enumerate(first))


FAST_ON_RANK_ONE = """
import time
import torch
from lightning.pytorch.callbacks import Callback
from agvae.training.budget import budget_of


class Probe(Callback):
    def on_fit_start(self, trainer, module):
        self.rates = []
        if trainer.global_rank == 1:
            budget_of(trainer).clock = lambda: 5 * time.monotonic()

    def on_train_batch_start(self, trainer, *_):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_end(self, trainer, module):
        torch.save(self.rates, f"{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_have_one_rate_and_end_together(tmp_path):
    (tmp_path / "probe.py").write_text(FAST_ON_RANK_ONE)
    options = ["trainer.devices=2", "scheduler=cosine", "scheduler.warmup_steps=0", "trainer.max_time=2s"]
    command = [sys.executable, str(ROOT / "train.py"), *TINY_RUN, *options, "+callbacks.probe._target_=probe.Probe"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120, capture_output=True)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first == second
    assert first[0] == 1e-3 > first[-1]


def test_a_run_without_a_budget_has_none():
    assert budget.budget_of(SimpleNamespace(callbacks=[Callback()])) is None
