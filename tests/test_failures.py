"""A run survives kills at any moment, full disks, losses that are not finite, and loggers that fail."""

import errno
import functools
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from test_training import ROOT, TINY_RUN, At, assert_equal, configure, inject, load, tiny_module

from agvae.engine import train
from agvae.errors import DataError
from agvae.files import ASIDE
from agvae.models import AGVAE
from agvae.training.acceleration import _compare, choose_precision, try_bfloat16
from agvae.training.checkpoints import AtomicCheckpointIO, Interrupted
from agvae.training.compilation import compiled_forms, put_in_place
from agvae.training.loggers import never_fails
from agvae.training.optimization import build_optimizer

__all__ = ["inject"]

RUN = ["trainer.max_steps=8", "ema.decay=0.9", "trainer.val_check_interval=4", "callbacks.last.every_n_steps=1"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict:
    """The last checkpoint of a run of 8 steps that nothing disturbs."""
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    train(configure(run_dir, *RUN))
    return load(run_dir)


def assert_same_state(one: dict, other: dict) -> None:
    """Assert that weights, average, optimiser, schedule and position are equal in both runs, bit for bit."""
    assert one["global_step"] == other["global_step"]
    for part in ("state_dict", "ema"):
        assert_equal(one[part], other[part])
    (mine,), (theirs,) = one["optimizer_states"], other["optimizer_states"]
    assert mine["param_groups"] == theirs["param_groups"]
    for index, state in theirs["state"].items():
        assert_equal(mine["state"][index], state)
    assert one["lr_schedulers"] == other["lr_schedulers"]
    progress = [run["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"] for run in (one, other)]
    assert progress[0] == progress[1]


# --- killed

KILLED = """
import os, signal, sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from test_training import configure
from agvae import files
from agvae.engine import train

calls, real = [], getattr(os, {call!r})

def killed(*arguments):
    calls.append(arguments)
    if len(calls) == {count}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)

setattr(os, {call!r}, killed)
train(configure(Path({run_dir!r}), *{options!r}))
"""


def start(code: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums depend on the number of threads
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize(
    ("call", "count", "step"),
    [
        ("replace", 8, 4),  # step 5 is written but not renamed; the first call is for config.yaml
        pytest.param("replace", 7, 4, marks=pytest.mark.slow),  # during the write of the best checkpoint
        pytest.param("fsync", 7, 1, marks=pytest.mark.slow),  # half of step 2
    ],
)
def test_a_run_killed_while_it_saves_resumes_bit_for_bit(uninterrupted, tmp_path, call, count, step):
    code = KILLED.format(tests=str(Path(__file__).parent), call=call, count=count, run_dir=str(tmp_path), options=RUN)
    process = start(code)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, errors.decode()
    assert list((tmp_path / "checkpoints").glob(f"{ASIDE}*"))
    assert load(tmp_path)["global_step"] == step
    train(configure(tmp_path, *RUN, "ckpt_path=last"))
    assert_same_state(load(tmp_path), uninterrupted)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.slow
def test_a_run_killed_again_and_again_at_any_moment_ends_as_the_uninterrupted_one(uninterrupted, tmp_path):
    code = KILLED.format(
        tests=str(Path(__file__).parent),
        call="fsync",
        count=-1,
        run_dir=str(tmp_path),
        options=[*RUN, "ckpt_path=last"],
    )
    train(configure(tmp_path, *RUN, "trainer.max_steps=1"))
    last, kills = tmp_path / "checkpoints" / "last.ckpt", 0
    for delay in (0.0, 0.01, 0.02, 0.05, 0.1, 0.2):
        process = start(code)
        saved = last.stat().st_mtime_ns
        while process.poll() is None and last.stat().st_mtime_ns == saved:
            pass
        if process.poll() is None:
            signal.sigtimedwait([], delay)
            process.kill()
            kills += 1
        process.communicate(timeout=120)
        if load(tmp_path)["global_step"] == 8:
            break
    assert kills > 2
    if load(tmp_path)["global_step"] < 8:
        train(configure(tmp_path, *RUN, "ckpt_path=last"))
    assert_same_state(load(tmp_path), uninterrupted)


def test_sigterm_saves_exits_with_143_and_resumes_bit_for_bit(uninterrupted, tmp_path, inject):
    inject(At(5, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(Interrupted) as stopped:
        train(configure(tmp_path, *RUN, "callbacks.last.every_n_steps=1000"))
    assert stopped.value.code == 128 + signal.SIGTERM
    assert load(tmp_path)["global_step"] == 5
    inject()
    train(configure(tmp_path, *RUN, "ckpt_path=last"))
    assert_same_state(load(tmp_path), uninterrupted)


class AtBatch(Callback):
    """Calls a function in the given hook, at its n-th call."""

    def __init__(self, hook, count, function):
        self.left, self.function = count, function
        setattr(self, hook, self._count)

    def _count(self, *_):
        self.left -= 1
        if self.left == 0:
            self.function()


def test_a_run_that_ends_in_or_after_a_validation_resumes_with_its_outcome(tmp_path, inject):
    options = [
        *RUN,
        "scheduler=plateau",
        "scheduler.patience=0",
        "callbacks.last.every_n_steps=1000",
        "trainer.limit_val_batches=1",
    ]
    whole, cut, later = tmp_path / "whole", tmp_path / "cut", tmp_path / "later"
    train(configure(whole, *options))

    def best(run_dir):
        (state,) = (s for name, s in load(run_dir)["callbacks"].items() if name.startswith("ModelCheckpoint"))
        return state["best_model_score"]

    def assert_the_same():
        assert_same_state(load(cut), load(whole))
        assert best(cut) == best(whole)
        assert (cut / "rd.csv").read_text() == (whole / "rd.csv").read_text()

    inject(AtBatch("on_validation_batch_end", 1, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(Interrupted):
        train(configure(cut, *options))
    assert not (cut / "rd.csv").exists()
    inject(AtBatch("on_train_batch_end", 2, lambda: shutil.copytree(cut, later)))  # the state after a kill -9
    train(configure(cut, *options, "ckpt_path=last"))
    assert_the_same()

    shutil.rmtree(cut)
    later.rename(cut)
    assert load(cut)["global_step"] == 4
    train(configure(cut, *options, "ckpt_path=last"))
    assert_the_same()


def test_sigterm_before_the_first_step_ends_the_run_after_it(tmp_path, inject):
    inject(AtBatch("on_sanity_check_start", 1, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(Interrupted) as stopped:
        train(configure(tmp_path, "trainer.num_sanity_val_steps=1"))
    assert stopped.value.code == 128 + signal.SIGTERM
    assert load(tmp_path)["global_step"] == 1


@pytest.mark.slow
def test_sigterm_while_gradients_are_accumulated_waits_for_the_step(tmp_path, inject):
    options = ["trainer.max_steps=4", "trainer.accumulate_grad_batches=2", "trainer.val_check_interval=3"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(configure(whole, *options))
    inject(AtBatch("on_train_batch_end", 3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(Interrupted):
        train(configure(cut, *options))
    assert load(cut)["global_step"] == 2
    inject()
    train(configure(cut, *options, "ckpt_path=last"))
    assert_equal(load(cut)["state_dict"], load(whole)["state_dict"])


def test_signals_to_all_processes_of_a_run_leave_the_loaders_workers_at_work(tmp_path, inject):
    def signal_workers():
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGTERM)
            os.kill(worker.pid, signal.SIGINT)
        time.sleep(0.5)  # the death of a worker would raise an error here

    inject(At(2, signal_workers))
    trainer = train(configure(tmp_path, "trainer.max_steps=5", "data.cache=none", "data.num_workers=1"))
    assert trainer.global_step == 5


# --- a full disk


class Disk:
    """A disk. While it is full, no file can grow over 64 KiB."""

    def __init__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, self.before[1]))

    def free(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.fixture
def disk():
    disk = Disk()
    yield disk
    disk.free()


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before_and_is_said(tmp_path, disk, caplog):
    keeper, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    keeper.save_checkpoint({"global_step": 1, "weights": torch.zeros(2**16)}, path)
    disk.fill()
    keeper.save_checkpoint({"global_step": 2, "weights": torch.ones(2**16)}, path)
    disk.free()
    assert "step 2 was not saved: [Errno 27] File too large" in caplog.text
    assert "the one before stays" in caplog.text
    assert torch.load(path, weights_only=True)["global_step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    keeper.save_checkpoint({"global_step": 3}, path)
    assert keeper.failure is None


def test_a_disk_that_fills_up_ends_the_run_with_one_line_and_the_last_good_checkpoint(tmp_path, inject, disk):
    fills = iter([disk.fill, disk.free])  # the resumed run repeats step 3
    inject(At(3, lambda: next(fills)()))
    with pytest.raises(DataError, match=r"last checkpoint could not be saved.*too large.*ckpt_path=last"):
        train(configure(tmp_path, *RUN))
    disk.free()
    assert load(tmp_path)["global_step"] == 2
    train(configure(tmp_path, *RUN, "ckpt_path=last"))
    assert load(tmp_path)["global_step"] == 8


def test_a_disk_that_has_room_again_ends_well(uninterrupted, tmp_path, inject, disk, caplog):
    inject(At(3, disk.fill), At(6, disk.free))
    train(configure(tmp_path, *RUN))
    assert "step 5 was not saved" in caplog.text
    assert_same_state(load(tmp_path), uninterrupted)


def test_a_run_that_resumes_on_a_full_disk_says_so_and_loses_nothing(tmp_path, monkeypatch):
    train(configure(tmp_path, "trainer.max_steps=1"))
    before = (tmp_path / "config.yaml").read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"cannot be written.*No space left.*config\.yaml"):
        train(configure(tmp_path, "trainer.max_steps=2", "ckpt_path=last"))
    assert (tmp_path / "config.yaml").read_bytes() == before
    assert load(tmp_path)["global_step"] == 1


# --- not finite


class Spoil(Callback):
    """Makes the loss or a gradient of the given steps, counted from 1, not finite."""

    def __init__(self, steps, what="loss"):
        self.steps, self.what = set(steps), what

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        spoiled = trainer.global_step + 1 in self.steps
        module.level_lambda.fill_(torch.nan if spoiled and self.what == "loss" else 0.01)

    def on_after_backward(self, trainer, module):
        if trainer.global_step + 1 in self.steps and self.what == "gradient":
            next(module.model.g_s.parameters()).grad[0] = torch.inf


class Weights(Callback):
    """Records the weights and the optimiser's state after each step."""

    def __init__(self):
        self.after = {}

    def on_train_batch_end(self, trainer, module, *_):
        state = trainer.optimizers[0].state_dict()["state"]
        moments = {f"{i}.{key}": value.clone() for i, s in state.items() for key, value in s.items()}
        weights = {name: value.clone() for name, value in module.state_dict().items()}
        self.after[trainer.global_step] = weights | moments


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path, inject, caplog, what):
    weights = Weights()
    inject(Spoil([3, 4, 6], what), weights)
    trainer = train(configure(tmp_path, "trainer.max_steps=7"))
    assert_equal(weights.after[2], weights.after[3])
    assert_equal(weights.after[2], weights.after[4])
    assert_equal(weights.after[5], weights.after[6])
    assert not torch.equal(weights.after[4]["model.g_a.0.weight"], weights.after[5]["model.g_a.0.weight"])
    assert all(value.isfinite().all() for value in weights.after[7].values())
    assert trainer.callback_metrics["train/skipped_steps"] == 3
    assert "step 6 skipped" in caplog.text
    assert load(tmp_path)["callbacks"]["SkippedSteps"] == {"total": 3}


def test_the_step_is_skipped_also_for_the_quantiles_alone(tiny_config, monkeypatch):
    module = tiny_module(tiny_config)
    monkeypatch.setattr(module, "log", lambda *_: None)
    network, quantiles = module.model.network_parameters(), module.model.quantile_parameters()
    optimizer = build_optimizer(dict(module.hparams.optimizer), network, quantiles, fused=True)
    for p in module.model.parameters():
        p.grad = torch.ones_like(p)
    quantiles[0].grad[0] = torch.nan
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.configure_gradient_clipping(optimizer, 1.0)
    optimizer.step()
    assert module.step_skipped
    assert_equal(before, module.state_dict())


SPOILED_ON_ONE_RANK = """
import torch
from lightning.pytorch.callbacks import Callback


class Spoil(Callback):
    def on_train_start(self, trainer, module):
        self.distortion = module.distortion

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        wrong = trainer.global_rank == 1 and trainer.global_step in (1, 2)
        module.distortion = lambda x_hat, x: self.distortion(x_hat, x) * (torch.nan if wrong else 1)

    def on_train_end(self, trainer, module):
        torch.save((trainer.callback_metrics["train/skipped_steps"], module.state_dict()), f"{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_all_ranks_skip_a_step_that_one_of_them_spoils(tmp_path):
    (tmp_path / "spoil.py").write_text(SPOILED_ON_ONE_RANK)
    options = ["trainer.devices=2", "trainer.max_steps=5", "+callbacks.spoil._target_=spoil.Spoil"]
    command = [sys.executable, str(ROOT / "train.py"), *TINY_RUN[:-1], *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120, capture_output=True)
    (skipped, weights), (also_skipped, same) = (
        torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)
    )
    assert skipped == also_skipped == 2
    assert_equal(weights, same)
    assert all(value.isfinite().all() for value in weights.values())


LATE_ON_RANK_ZERO = """
import time
import torch
from lightning.pytorch.callbacks import Callback


class Spoil(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        module.distortion = lambda x_hat, x: (x_hat - x).square().mean((1, 2, 3)) * torch.nan

    def on_exception(self, trainer, module, exception):
        time.sleep(8 if trainer.is_global_zero else 0)
"""


@pytest.mark.slow
def test_rank_zero_has_the_time_to_save_and_say_why_all_ranks_stop(tmp_path):
    (tmp_path / "spoil.py").write_text(LATE_ON_RANK_ZERO)
    options = ["trainer.devices=2", "trainer.max_steps=9", f"run_dir={tmp_path}"]
    rollback = [f"callbacks.rollback.{key}" for key in ("every_n_steps=2", "in_a_row=2", "limit=0")]
    spoil = "+callbacks.spoil._target_=spoil.Spoil"
    command = [sys.executable, str(ROOT / "train.py"), *TINY_RUN[:-1], *options, *rollback, spoil]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, timeout=120, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: step 2: 2 steps in a row had a loss or gradient that is not finite" in done.stderr
    assert load(tmp_path)["global_step"] == 2


# --- loggers


class Unreachable(CSVLogger):
    def log_metrics(self, *_, **__):
        raise ConnectionError("the service is down")

    def save(self):
        raise OSError("no space left")


def test_a_logger_that_fails_is_named_once_and_never_ends_a_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("lightning.pytorch.loggers.CSVLogger", Unreachable)
    with caplog.at_level(logging.WARNING):
        train(configure(tmp_path, "trainer.max_steps=3"))
    assert load(tmp_path)["global_step"] == 3
    assert caplog.text.count("failed, and the run continues without it") == 1


def test_a_guarded_logger_still_logs(tmp_path):
    logger = never_fails(CSVLogger(tmp_path, version=0))
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.save()
    assert "loss" in (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()


# --- waiting for data


@pytest.mark.parametrize("cache", ["device", "none"])
def test_the_share_of_time_spent_waiting_for_data_is_logged(tmp_path, cache):
    options = ["trainer.max_steps=4", "trainer.val_check_interval=2", "data.num_workers=0", f"data.cache={cache}"]
    metrics = train(configure(tmp_path, *options)).callback_metrics
    assert 0 < metrics["train/data_wait"] < 1


# --- fast paths that a machine may lack


def test_precision_is_float32_where_bfloat16_is_slow_wrong_or_crashes(tiny_config, monkeypatch):
    def chosen(resumed=None, **keys):
        trainer = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"} | keys
        return choose_precision(trainer, tiny_config, resumed)

    answers = {"speedup": 3.0, "loss": 0.0, "cosine": 1.0}
    monkeypatch.setattr("agvae.training.acceleration.try_bfloat16", lambda model: answers)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    assert chosen() == chosen(resumed="bf16-mixed") == "32-true"
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: True)
    assert chosen() == "bf16-mixed"
    assert chosen(resumed="32-true") == chosen(devices=2) == chosen(num_nodes=2) == chosen(strategy="fsdp") == "32-true"
    answers = {"speedup": 1.1, "loss": 0.0, "cosine": 1.0}
    assert chosen() == "32-true"
    assert chosen(resumed="bf16-mixed") == "bf16-mixed"
    answers = {"reason": "crashes (status -11)"}
    assert chosen() == "32-true"

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for emulated, precision in ((False, "bf16-mixed"), (True, "32-true")):
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True, e=emulated: not e)
        assert chosen(accelerator="gpu", devices=4) == chosen(accelerator="auto") == precision


@pytest.mark.parametrize("transforms", ["minnen2018", "residual"])
def test_bfloat16_gives_the_loss_and_the_gradients_of_float32(tiny_config, transforms):
    tiny_config["transforms"]["name"] = transforms
    compared = _compare(tiny_config, side=64, batch=2)
    assert compared["loss"] < 0.01
    assert compared["cosine"] > 0.99


def test_a_crash_in_bfloat16_is_one_of_the_process_that_tries_it():
    assert try_bfloat16({"transforms": None})["reason"].startswith("crashes (status")


def test_a_model_that_cannot_be_compiled_runs_as_it_is_and_that_is_said(tmp_path, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("no working C++ compiler")

    runs = {}
    for compiled in ("false", "true"):
        if compiled == "true":
            monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", broken)
        train(configure(tmp_path / compiled, "trainer.max_steps=2", f"compile={compiled}"))
        runs[compiled] = load(tmp_path / compiled)
    (said,) = (record.getMessage() for record in caplog.records if "runs uncompiled" in record.getMessage())
    assert "no working C++ compiler" in said
    assert_equal(runs["true"]["state_dict"], runs["false"]["state_dict"])


def test_each_network_is_compiled_as_a_whole_and_a_block_once_for_each_size(tiny_config, monkeypatch):
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr("torch.compile", functools.partial(torch.compile, backend=count))
    x = torch.rand(2, 3, 128, 128).contiguous(memory_format=torch.channels_last)
    # minnen2018: four networks, context, prior and likelihoods. depthwise: two sizes of blocks instead of the networks
    for name, keys, count_of_graphs in (("minnen2018", {}, 7), ("depthwise", {"blocks": 2}, 5)):
        graphs.clear()
        torch._dynamo.reset()
        tiny_config["transforms"] = {"name": name, "N": 8, "M": 12, **keys}
        tiny_config["context"] = {"name": "checkerboard"}
        model = AGVAE.from_config(tiny_config).train()
        model.to(memory_format=torch.channels_last)
        put_in_place(compiled_forms(model))
        for _ in range(2):
            model(x, torch.tensor([0.0, 2.0]))
        assert len(graphs) == count_of_graphs


@pytest.mark.slow
def test_compiled_networks_train_as_the_others_do(tmp_path):
    runs = {}
    for compiled in ("true", "false"):
        options = ["trainer.max_steps=6", "trainer.val_check_interval=3", f"compile={compiled}"]
        trainer = train(configure(tmp_path / compiled, *options))
        runs[compiled] = [trainer.callback_metrics[key].item() for key in ("train/loss", "val/loss")]
    assert runs["true"] == pytest.approx(runs["false"], rel=1e-3)
