"""A run that diverges goes back to its last good weights, even after it was resumed. A healthy run does not."""

import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from test_failures import SPOILED_ON_ONE_RANK, Spoil, assert_same_state
from test_training import ROOT, TINY_RUN, At, assert_equal, configure, load
from test_training import inject as any_inject

from agvae.engine import train
from agvae.training import rollback
from agvae.training.checkpoints import Interrupted
from agvae.training.rollback import START, DivergenceError, Rollback, Verdict, smoothed

__all__ = ["any_inject"]

QUICK = [
    *(f"callbacks.rollback.{key}" for key in ("every_n_steps=2", "in_a_row=2")),
    "ema.decay=0.9",
    "trainer.limit_val_batches=0",
]


# --- judging the losses


def judging(recent: Sequence[float] = (), best: float = math.inf) -> Rollback:
    callback = Rollback(every_n_steps=50, in_a_row=3, growth=2.0, factor=0.7, limit=5)
    callback.recent, callback.best = [*recent], best
    return callback


def judge(recent: list[float], newest: list[float], best: float = math.inf) -> Verdict:
    return judging(recent, best)._judge(newest)


def test_single_batches_hardly_move_the_smoothed_loss():
    healthy = [1.0, 1.2, 0.8, 1.1, 0.9] * 40
    assert smoothed(healthy).value == pytest.approx(1)
    for outlier in (1e9, math.inf, math.nan):
        assert smoothed([*healthy, outlier]).value == pytest.approx(1, abs=0.02)
        assert smoothed([*healthy, *[outlier] * 20]).value == pytest.approx(1.27, abs=0.02)
    assert smoothed([*healthy, *[math.nan] * 200]).value == math.inf
    assert smoothed([3 * loss for loss in healthy]).value == pytest.approx(3)
    assert smoothed([1.0]).error == math.inf


def test_a_run_has_diverged_after_steps_in_a_row_that_are_not_finite():
    healthy, nan = [1.0] * 40, math.nan
    assert judge(healthy, [nan, nan]).reason is None
    assert "3 steps in a row" in judge(healthy, [1.0, nan, nan, nan]).reason
    assert "4 steps in a row" in judge([*healthy, nan, nan], [nan, nan]).reason
    assert judge(healthy, [nan, nan, nan, 1.0]).reason is None


def test_a_run_has_diverged_at_twice_its_best_loss():
    assert judge([], [1.9] * 40, best=1.0).reason is None
    assert "has risen from 1 to 2.1" in judge([], [2.1] * 40, best=1.0).reason
    assert "has risen from 1 to" in judge([], [1.0] * START + [9.0] * 30).reason  # in its first steps
    assert judge([], [9.0] * START + [1.0] * 30).reason is None
    assert judge([1.0] * 100, [1e9, 1.0], best=1.0).reason is None
    assert judge([], [1e9], best=1.0).reason is None  # a single loss


def test_noise_is_no_divergence():
    draw = random.Random(0)
    callback = judging()
    for _ in range(300):
        newest = [1.7 ** draw.randrange(6) * draw.lognormvariate(0, 0.5) for _ in range(50)]
        verdict = callback._judge(newest)
        assert verdict.reason is None
        callback.best, callback.recent = verdict.best, [*callback.recent, *newest][-rollback.WINDOW :]
    worse = [5 * loss for loss in callback.recent]
    assert "has risen" in callback._judge(worse).reason


def test_only_weights_with_a_loss_near_the_best_are_worth_keeping():
    assert judge([], [1.0] * 40, best=0.9).sane
    assert not judge([], [1.3] * 40, best=1.0).sane
    assert not judge([1.0] * 150, [1.3] * 50, best=1.0).sane  # the loss begins to rise
    assert judge([9.0] * 10, [1.0] * 50, best=9.0).sane


# --- whole runs


@pytest.fixture
def inject(any_inject, monkeypatch):
    """Adds callbacks to runs whose window has four steps and whose losses are taken as exact."""
    for name, value in (("WINDOW", 4), ("START", 2), ("ERRORS", 0.0)):
        monkeypatch.setattr(rollback, name, value)
    return any_inject


class Losses(Callback):
    """Replaces the watched losses by those of a script, {step from 1 on: loss}, and by 1 in all other steps."""

    def __init__(self, script: dict[int, float] | None = None):
        self.script = script or {}

    def on_train_batch_end(self, trainer, module, *_):
        module.step_loss = torch.tensor(self.script.get(trainer.global_step, 1.0))


def short(run_dir, steps: int, *options: str):
    """A run of `steps` steps, with a check after every second one."""
    return train(configure(run_dir, *QUICK, f"trainer.max_steps={steps}", *options))


def test_a_run_goes_back_to_the_kept_weights_with_a_lower_rate_and_no_moments(tmp_path, inject, caplog):
    inject(Losses())
    short(tmp_path / "good", 4)
    good = load(tmp_path / "good")
    inject(Losses(), Spoil([7, 8]))
    trainer = short(tmp_path / "bad", 8, "scheduler.warmup_steps=0")
    back = load(tmp_path / "bad")
    assert back["global_step"] == 8
    assert "step 8: 2 steps in a row had a loss or gradient that is not finite" in caplog.text
    assert "goes back to the weights of step 4 and continues with 0.7 times the learning rate" in caplog.text
    assert trainer.callback_metrics["train/rollbacks"] == 1
    for name, weights in (("state_dict", good["state_dict"]), ("ema", good["ema"])):
        assert back[name].keys() == weights.keys()
    assert not any(value.any() for state in back["optimizer_states"][0]["state"].values() for value in state.values())
    assert [group["lr"] for group in back["optimizer_states"][0]["param_groups"]] == pytest.approx([0.7e-3, 1e-3])
    assert back["lr_schedulers"][0]["base_lrs"] == pytest.approx([0.7e-3, 1e-3])


def test_the_weights_and_their_average_are_those_of_the_kept_step(tmp_path, inject):
    inject(Losses())
    short(tmp_path / "good", 4)
    inject(Losses({5: 5.0, 6: 5.0}))
    short(tmp_path / "bad", 6)
    good, back = load(tmp_path / "good"), load(tmp_path / "bad")
    assert back["rollback"]["total"] == 1
    for part in ("state_dict", "ema"):
        assert_equal(back[part], good[part])


def test_a_run_resumed_between_two_ways_back_equals_the_uninterrupted_one(tmp_path, inject):
    spoiled = [3, 4, 9, 10]
    inject(Losses(), Spoil(spoiled))
    short(tmp_path / "whole", 11)
    inject(Losses(), Spoil(spoiled), At(7, lambda: os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(Interrupted):
        short(tmp_path / "cut", 11)
    inject(Losses(), Spoil(spoiled))
    short(tmp_path / "cut", 11, "ckpt_path=last")
    whole, cut = load(tmp_path / "whole"), load(tmp_path / "cut")
    assert_same_state(cut, whole)
    assert_equal(cut["rollback"].pop("kept"), whole["rollback"].pop("kept"))
    assert cut["rollback"] == whole["rollback"]
    assert (whole["rollback"]["total"], whole["rollback"]["kept_step"]) == (2, 6)


def test_a_run_that_diverges_again_and_again_ends_with_its_last_good_weights(tmp_path, inject):
    inject(Losses())
    short(tmp_path / "good", 8)
    bad = dict.fromkeys(range(9, 99), 5.0)
    inject(Losses(bad))
    with pytest.raises(
        DivergenceError, match=r"step 14: the smoothed loss has risen from 1 to 5; .* step 8 .* 2 times"
    ) as error:
        short(tmp_path / "bad", 50, "callbacks.rollback.limit=2")
    assert "\n" not in str(error.value)
    saved = load(tmp_path / "bad")
    assert saved["global_step"] == 14
    assert (saved["rollback"]["total"], saved["rollback"]["in_vain"]) == (2, 0)
    assert_equal(saved["state_dict"], load(tmp_path / "good")["state_dict"])


def test_a_new_best_loss_between_two_divergences_is_progress(tmp_path, inject):
    script = dict.fromkeys((9, 10, 13, 14, 17, 18), 5.0) | {step: 0.9 - step / 100 for step in (11, 12, 15, 16)}
    inject(Losses(script))
    short(tmp_path, 18, "callbacks.rollback.limit=1")
    assert load(tmp_path)["rollback"]["total"] == 3


def test_with_no_way_back_to_go_the_first_divergence_ends_the_run(tmp_path, inject):
    inject(Losses(), Spoil([5, 6]))
    with pytest.raises(DivergenceError, match=r"step 6: 2 steps in a row"):
        short(tmp_path, 8, "callbacks.rollback.limit=0")
    assert load(tmp_path)["global_step"] == 6


def test_a_healthy_run_is_that_of_one_without_a_way_back(tmp_path, inject):
    inject(Losses())
    short(tmp_path / "on", 8)
    short(tmp_path / "off", 8, "callbacks.rollback=null")
    on, off = load(tmp_path / "on"), load(tmp_path / "off")
    assert (on["rollback"]["total"], on["rollback"]["kept_step"]) == (0, 8)
    assert_same_state(on, off)


class Broken(Callback):
    """Breaks the decoder once, after a step, so that its pictures are not finite."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step == self.step:
            self.step = 0
            with torch.no_grad():
                for p in module.model.g_s.parameters():
                    p.mul_(1e30)


@pytest.mark.parametrize("way_back", [True, False])
def test_weights_that_give_no_finite_step_any_more_are_left_behind(tmp_path, inject, way_back):
    inject(Broken(4))
    options = ["trainer.max_steps=10", "trainer.val_check_interval=10", "trainer.limit_val_batches=1"]
    rollbacks = QUICK[:2] if way_back else ["callbacks.rollback=null"]
    trainer = train(configure(tmp_path, *options, *rollbacks))
    assert math.isfinite(trainer.callback_metrics["val/loss"]) == way_back


def test_a_run_resumed_with_another_loss_forgets_the_best_of_the_one_before(tmp_path, inject):
    inject(Losses())
    short(tmp_path, 4)
    inject(Losses(dict.fromkeys(range(5, 9), 9.0)))
    short(tmp_path, 8, "ckpt_path=last", "loss.level_weight_power=0")
    after = load(tmp_path)["rollback"]
    assert (after["total"], after["best"]) == (0, 9.0)
    assert after["kept_step"] == 8


def test_a_checkpoint_of_sharded_weights_keeps_none_and_is_resumed_from_its_own(tmp_path, inject, monkeypatch):
    inject(Losses())
    monkeypatch.setattr(rollback, "is_sharded", lambda trainer: True)
    short(tmp_path, 5)
    saved = load(tmp_path)
    assert saved["rollback"]["kept"] == {}
    inject(Losses(), Spoil([6, 7, 8]))
    short(tmp_path, 8, "ckpt_path=last")
    assert_equal(load(tmp_path)["state_dict"], saved["state_dict"])


def test_a_run_goes_on_from_a_checkpoint_of_one_without_a_way_back(tmp_path, inject):
    short(tmp_path, 3, "callbacks.rollback=null")
    saved = load(tmp_path)
    inject(Spoil(range(4, 7)))
    short(tmp_path, 6, "ckpt_path=last")
    assert load(tmp_path)["rollback"]["total"] == 1
    assert_equal(load(tmp_path)["state_dict"], saved["state_dict"])


@pytest.mark.slow
def test_a_rate_thirty_times_too_high_ends_with_a_usable_model(tmp_path, monkeypatch):
    monkeypatch.setattr(rollback, "WINDOW", 80)  # the run has 300 steps
    options = ["model/transforms=depthwise", "model.transforms.N=16", "model.transforms.M=24", "scheduler=wsd"]
    options += ["scheduler.warmup_steps=20", "trainer.max_steps=300", "trainer.val_check_interval=300"]
    losses = {}
    for name, rate, extra in (
        ("right", 1e-3, "callbacks.rollback.every_n_steps=20"),
        ("with", 3e-2, "callbacks.rollback.every_n_steps=20"),
        ("without", 3e-2, "callbacks.rollback=null"),
    ):
        run = configure(tmp_path / name, *options, f"optimizer.lr={rate}", "data.samples_per_epoch=null", extra)
        losses[name] = float(train(run).callback_metrics["val/loss"])
    assert load(tmp_path / "right")["rollback"]["total"] == 0
    assert load(tmp_path / "with")["rollback"]["total"] > 0
    assert not losses["without"] < 10 * losses["right"]
    assert losses["with"] < 4 * losses["right"]


# --- several processes


@pytest.mark.slow
def test_all_ranks_go_back_when_one_of_them_spoils_the_steps(tmp_path):
    (tmp_path / "spoil.py").write_text(SPOILED_ON_ONE_RANK.replace("skipped_steps", "rollbacks"))
    options = ["trainer.devices=2", "trainer.max_steps=6", "+callbacks.spoil._target_=spoil.Spoil"]
    options += ["callbacks.rollback.every_n_steps=3", "callbacks.rollback.in_a_row=2"]
    command = [sys.executable, str(ROOT / "train.py"), *TINY_RUN[:-1], *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (total, weights), (other_total, other) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert total == other_total == 1
    assert_equal(weights, other)
    assert done.stdout.count("back to the weights of step 0") == 1


def test_between_two_checks_nothing_reads_from_the_device():
    callback = Rollback(every_n_steps=5, in_a_row=3, growth=2.0, factor=0.7, limit=5)
    trainer = SimpleNamespace(
        fit_loop=SimpleNamespace(_should_accumulate=lambda: False), log_every_n_steps=0, max_steps=-1, should_stop=False
    )
    loss, skipped = torch.tensor(1.0, device="meta"), torch.tensor(False, device="meta")  # unreadable
    module = SimpleNamespace(step_loss=loss, step_skipped=skipped)
    for step in range(1, 5):
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, None, 0)
    trainer.global_step = 5
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        callback.on_train_batch_end(trainer, module, None, None, 0)
