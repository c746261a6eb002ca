"""Training: the loss, the optimiser, reproducibility, and the files of a run, however it ends."""

import http.server
import itertools
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import programs
import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from PIL import Image

from agvae.codec import model_file
from agvae.engine import train
from agvae.errors import ConfigError, DataError
from agvae.metrics import mse_of_batch
from agvae.training import loggers
from agvae.training.callbacks import EMA
from agvae.training.checkpoints import Interrupted, LastCheckpoint
from agvae.training.losses import level_lambdas, level_weights, ms_ssim_distortion
from agvae.training.module import AGVAEModule, step_seed
from agvae.training.optimization import build_optimizer, build_scheduler

ROOT = Path(__file__).parents[1]

TINY_RUN = [
    "model.transforms.N=8",
    "model.transforms.M=12",
    "data.batch_size=2",
    "data.patch_size=64",
    "data.val_crop=64",
    "data.samples_per_epoch=6",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.num_sanity_val_steps=0",
    "trainer.val_check_interval=100",
    "trainer.log_every_n_steps=1",
    "scheduler=constant",
    "optimizer.lr=1e-3",
    "logger=csv",
    "callbacks.progress_bar=null",
    "+trainer.enable_progress_bar=false",
]


def configure(run_dir: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        return compose("train", [*TINY_RUN, f"run_dir={run_dir}", *overrides])


def load(run_dir: Path, name: str = "last.ckpt") -> dict:
    return torch.load(run_dir / "checkpoints" / name, weights_only=True)


def assert_equal(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def tiny_module(tiny_config: dict, **loss) -> AGVAEModule:
    defaults = {
        "name": "mse",
        "ladder": [0.001, 0.01, 0.1],
        "lambdas": None,
        "level_weight_power": 0.5,
        "level_sampling": "sample",
    }
    optimizer = {"name": "adam", "lr": 1e-4, "quantile_lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0.0}
    scheduler = {"name": "constant", "warmup_steps": 0}
    return AGVAEModule(tiny_config, defaults | loss, optimizer, scheduler, {"qualities": None})


# --- loss


def test_distortions_are_per_picture_and_on_the_scale_of_their_ladders(photo):
    x = torch.stack([torch.full((3, 192, 192), 0.5), torch.rand(3, 192, 192)])
    shifted = x + torch.tensor([1 / 255, 2 / 255])[:, None, None, None]
    torch.testing.assert_close(mse_of_batch(shifted, x), torch.tensor([1.0, 4.0]), rtol=1e-3, atol=0)
    assert ms_ssim_distortion(x, x).abs().max() < 1e-2
    worse = ms_ssim_distortion((x + 0.3 * torch.rand_like(x)).bfloat16(), x)
    assert worse.dtype == torch.float32
    assert 10 < worse[0] < 1000


def test_ms_ssim_of_too_small_a_picture_is_refused():
    with pytest.raises(ConfigError, match="161"):
        ms_ssim_distortion(torch.rand(1, 3, 160, 256), torch.rand(1, 3, 160, 256))


def test_ladder_is_spread_over_other_numbers_of_levels():
    loss = {"ladder": [0.001, 0.002, 0.1], "lambdas": None}
    assert level_lambdas(loss, 3) == [0.001, 0.002, 0.1]
    spread = level_lambdas(loss, 5)
    ratios = [b / a for a, b in itertools.pairwise(spread)]
    assert ratios == pytest.approx([100**0.25] * 4)
    assert level_lambdas(loss | {"lambdas": [0.5]}, 1) == level_lambdas(loss | {"lambdas": 0.5}, 1) == [0.5]


@pytest.mark.parametrize(
    ("lambdas", "levels"), [(None, 1), ([0.1], 3), ([0.1, 0.2], 1), ([0.2, 0.1], 2), ([0.0, 0.1], 2), ([], 2)]
)
def test_ladders_that_cannot_be_are_refused(lambdas, levels):
    with pytest.raises(ConfigError, match=r"loss\.lambdas"):
        level_lambdas({"ladder": [0.001, 0.002, 0.1], "lambdas": lambdas}, levels)


def test_weights_have_mean_one_and_power_one_equalises_distortions():
    lambdas = [0.001, 0.02, 0.3]
    assert level_weights(lambdas, 0) == [1, 1, 1]
    weights = level_weights(lambdas, 1)
    assert sum(weights) / 3 == pytest.approx(1)
    assert [w * x for w, x in zip(weights, lambdas, strict=True)] == pytest.approx([weights[0] * 0.001] * 3)


# --- optimiser


def test_the_two_parameter_groups_are_disjoint_and_complete(tiny_config):
    model = tiny_module(tiny_config).model
    network, quantiles = model.network_parameters(), model.quantile_parameters()
    assert {id(p) for p in network} & {id(p) for p in quantiles} == set()
    assert {id(p) for p in network} | {id(p) for p in quantiles} == {id(p) for p in model.parameters()}


@pytest.mark.parametrize(("algorithm", "expected"), [("norm", 1.0), ("value", 2.0)])
def test_clipping_touches_the_network_alone(tiny_config, algorithm, expected, monkeypatch):
    module = tiny_module(tiny_config)
    monkeypatch.setattr(module, "log", lambda *_: None)
    network, quantiles = module.model.network_parameters(), module.model.quantile_parameters()
    optimizer = build_optimizer(dict(module.hparams.optimizer), network, quantiles, fused=False)
    for p in module.model.parameters():
        p.grad = torch.full_like(p, 100.0)
    module.configure_gradient_clipping(optimizer, expected, algorithm)
    clipped = torch.cat([p.grad.flatten() for p in network])
    size = clipped.norm() if algorithm == "norm" else clipped.abs().max()
    assert size == pytest.approx(expected, rel=1e-4)
    assert all((p.grad == 100).all() for p in quantiles)


@pytest.mark.parametrize(
    ("scheduler", "factors"),
    [
        ({"name": "constant", "warmup_steps": 3}, {0: 0.25, 1: 0.5, 3: 1, 99: 1}),
        ({"name": "cosine", "warmup_steps": 0, "total_steps": None, "final_factor": 0.1}, {0: 1, 50: 0.55, 100: 0.1}),
        ({"name": "cosine", "warmup_steps": 0, "total_steps": 10, "final_factor": 0.0}, {5: 0.5, 10: 0, 20: 0}),
        (
            {"name": "wsd", "warmup_steps": 0, "total_steps": None, "decay_share": 0.2, "final_factor": 0.0},
            {0: 1, 80: 1, 90: 0.5, 100: 0},
        ),
        (
            {"name": "multistep", "warmup_steps": 0, "total_steps": None, "milestones": [0.5, 0.9], "factor": 0.1},
            {49: 1, 50: 0.1, 90: 0.01},
        ),
    ],
)
def test_schedules_move_the_network_and_leave_the_quantiles(scheduler, factors):
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1], "lr": 2.0}, {"params": weights[1:], "lr": 3.0}])
    built = build_scheduler(scheduler, optimizer, lambda: 100)
    rates = []
    for _ in range(101):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        built.step()
    for step, factor in factors.items():
        assert rates[step] == pytest.approx([2 * factor, 3])


# --- randomness


def test_draws_depend_on_seed_rank_and_batch_and_on_nothing_else(tiny_config):
    module = tiny_module(tiny_config)

    def draw(*key: int) -> list[int]:
        torch.manual_seed(step_seed(*key))
        return module.draw_levels(64).tolist()

    assert draw(0, 0, 7) == draw(0, 0, 7)
    draws = [draw(0, 0, 7), draw(1, 0, 7), draw(0, 1, 7), draw(0, 0, 8)]
    assert all(a != b for i, a in enumerate(draws) for b in draws[:i])
    assert set(draws[0]) == {0, 1, 2}


def test_levels_are_drawn_per_picture_or_per_batch_or_all_equally_often(tiny_config):
    torch.manual_seed(0)
    assert len(set(tiny_module(tiny_config).draw_levels(64).tolist())) == 3
    one = tiny_module(tiny_config, level_sampling="batch").draw_levels(64)
    assert one.shape == (64,)
    assert len(set(one.tolist())) == 1
    stratified, counts = tiny_module(tiny_config, level_sampling="stratified"), [0] * 3
    for _ in range(300):
        drawn = stratified.draw_levels(4).tolist()
        assert all(1 <= drawn.count(level) <= 2 for level in range(3))
        counts = [count + drawn.count(level) for level, count in enumerate(counts)]
    assert max(counts) < 1.2 * min(counts)  # 400 each on average


def test_levels_are_drawn_from_those_to_train(tiny_config):
    assert set(tiny_module(tiny_config, levels=[2, 0]).draw_levels(64).tolist()) == {0, 2}


# --- whole runs


class At(Callback):
    """Calls a function after a given step."""

    def __init__(self, step: int, function):
        self.step, self.function = step, function

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            self.function()


@pytest.fixture
def inject(monkeypatch):
    """Adds callbacks to the runs that `train` starts."""
    import lightning

    def add(*callbacks: Callback) -> None:
        class Trainer(lightning.Trainer):
            def __init__(self, *args, callbacks=(), **kwargs):
                super().__init__(*args, callbacks=[*extra, *callbacks], **kwargs)

        extra = list(callbacks)
        monkeypatch.setattr("agvae.training.trainer.Trainer", Trainer)

    return add


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """A run of 8 steps, with epochs of 3 steps and a validation after every fourth step."""
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    train(configure(run_dir, "trainer.max_steps=8", "ema.decay=0.9", "trainer.val_check_interval=4"))
    return run_dir


@pytest.mark.parametrize("step", [3, 4, 5])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(uninterrupted, tmp_path, step):
    options = ["ema.decay=0.9", "trainer.val_check_interval=4"]
    train(configure(tmp_path, f"trainer.max_steps={step}", *options))
    assert load(tmp_path)["global_step"] == step
    train(configure(tmp_path, "trainer.max_steps=8", "ckpt_path=last", *options))
    resumed, whole = load(tmp_path), load(uninterrupted)
    assert resumed["global_step"] == whole["global_step"] == 8
    assert_equal(resumed["state_dict"], whole["state_dict"])
    assert_equal(resumed["ema"], whole["ema"])


def test_a_run_stopped_by_ctrl_c_is_saved_and_resumes_bit_for_bit(uninterrupted, tmp_path, inject):
    options = ["trainer.max_steps=8", "ema.decay=0.9", "trainer.val_check_interval=4"]
    inject(At(5, lambda: os.kill(os.getpid(), signal.SIGINT)))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as stopped:
        train(configure(tmp_path, *options))
    assert stopped.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert load(tmp_path)["global_step"] == 5
    inject()
    train(configure(tmp_path, "ckpt_path=last", *options))
    assert_equal(load(tmp_path)["state_dict"], load(uninterrupted)["state_dict"])
    assert_equal(load(tmp_path)["ema"], load(uninterrupted)["ema"])


def test_the_average_is_not_the_trained_weights_and_leaves_them_alone(uninterrupted, tmp_path):
    train(configure(tmp_path, "trainer.max_steps=8", "trainer.val_check_interval=4"))
    averaged, plain = load(uninterrupted), load(tmp_path)
    assert "ema" not in plain
    assert_equal(averaged["state_dict"], plain["state_dict"])
    weights = {name.removeprefix("model."): value for name, value in averaged["state_dict"].items()}
    assert averaged["ema"].keys() == weights.keys()
    assert any(not torch.equal(averaged["ema"][name], weights[name]) for name in weights)


def test_checkpoints_hold_plain_data_and_no_resizing_buffers(uninterrupted, tiny_config):
    names = [path.name for path in (uninterrupted / "checkpoints").iterdir()]
    assert sorted(names) == ["best.ckpt", "last.ckpt"]
    checkpoint = load(uninterrupted)
    parameters = checkpoint["hyper_parameters"]
    assert parameters["model"]["gain"] == {"name": "hcvr", "levels": 6}
    assert len(parameters["loss"]["lambdas"]) == 6
    fresh = AGVAEModule(**parameters)
    shapes = {name: value.shape for name, value in fresh.state_dict().items()}
    assert {name: value.shape for name, value in checkpoint["state_dict"].items()} == shapes
    fresh.load_state_dict(checkpoint["state_dict"], strict=True)


def test_validation_writes_one_rd_curve_over_levels_and_the_qualities_between(uninterrupted):
    header, *rows = (uninterrupted / "rd.csv").read_text().splitlines()
    assert header == "step,quality,bpp,psnr,ms_ssim"
    points = [[float(value) for value in row.split(",")] for row in rows]
    assert [(step, quality) for step, quality, *_ in points] == [(s, q / 2) for s in (4, 8) for q in range(11)]
    assert all(bpp > 0 and 3 < psnr < 60 for _, _, bpp, psnr, _ in points)


@pytest.mark.parametrize(
    ("limits", "step"),
    [
        (["trainer.max_steps=2"], 2),
        (["trainer.max_steps=-1", "trainer.max_epochs=1"], 3),
        (["trainer.max_time=2s"], None),
    ],
)
def test_the_last_step_is_on_disk_however_the_run_is_limited(tmp_path, limits, step):
    trainer = train(configure(tmp_path, *limits))
    saved = load(tmp_path)
    assert saved["global_step"] == trainer.global_step > 0
    assert step is None or saved["global_step"] == step
    assert_equal(saved["state_dict"], trainer.lightning_module.state_dict())


def test_the_last_step_is_on_disk_after_an_exception(tmp_path, inject):
    def fail():
        raise RuntimeError("the disk is on fire")

    inject(At(3, fail))
    with pytest.raises(RuntimeError, match="fire"):
        train(configure(tmp_path, "trainer.max_steps=8"))
    assert load(tmp_path)["global_step"] == 3


def test_a_run_that_fails_before_its_first_step_leaves_the_checkpoint_alone(uninterrupted, tmp_path):
    callback = LastCheckpoint(tmp_path / "last.ckpt", every_n_steps=1)
    callback.on_exception(None, None, RuntimeError())
    assert not list(tmp_path.iterdir())


def test_weights_are_the_averaged_ones_while_validating_alone(tiny_config):
    module, ema = tiny_module(tiny_config), EMA(0.5)

    class Stub:
        global_step = 0

    ema.on_fit_start(Stub, module)
    name, weight = next(iter(module.model.named_parameters()))
    start = weight.detach().clone()
    with torch.no_grad():
        weight += 1
    Stub.global_step = 100
    ema.on_train_batch_end(Stub, module)
    ema.on_validation_start(Stub, module)
    torch.testing.assert_close(weight.detach(), start + 0.5)
    ema.on_exception(Stub, module, KeyboardInterrupt())
    assert torch.equal(weight, start + 1)
    torch.testing.assert_close(ema.average[name], start + 0.5)


def test_the_loss_falls_on_one_batch(tmp_path):
    overfit = ["debug=overfit", "trainer.max_steps=80", "trainer.val_check_interval=40", "data.batch_size=4"]
    train(configure(tmp_path, *overfit, "optimizer.lr=3e-3", "scheduler=constant", "logger=csv"))
    rows = [row.split(",") for row in (tmp_path / "rd.csv").read_text().splitlines()[1:]]
    first, last = ([float(row[3]) for row in rows if row[0] == step] for step in ("40", "80"))
    assert last[-1] > first[-1] > 10
    metrics = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    column = metrics[0].split(",").index("train/loss")
    losses = [float(row.split(",")[column]) for row in metrics[1:] if row.split(",")[column]]
    assert sum(losses[-2:]) < 0.5 * sum(losses[:2])


def test_mixed_precision_trains_and_validates(tmp_path):
    train(configure(tmp_path, "trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.precision=bf16-mixed"))
    weights = load(tmp_path)["state_dict"].values()
    assert {w.dtype for w in weights if w.is_floating_point()} == {torch.float32}
    assert all(w.isfinite().all() for w in weights)


def test_a_held_out_picture_too_small_for_ms_ssim_is_left_out_of_its_means_alone(tmp_path):
    for name, size in (("large", (192, 192)), ("small", (128, 192))):
        (tmp_path / "held").mkdir(exist_ok=True)
        Image.new("RGB", size, "teal").save(tmp_path / "held" / f"{name}.png")
    Image.new("RGB", (192, 192), "teal").save(tmp_path / "photo.png")
    data = ["data=folder", f"data.root={tmp_path}", f"data.val_root={tmp_path / 'held'}"]
    sides = ["data.patch_size=192", "data.val_crop=192", "trainer.val_check_interval=1"]
    trainer = train(configure(tmp_path / "run", "loss=msssim", "trainer.max_steps=1", *data, *sides))
    assert math.isfinite(trainer.callback_metrics["val/loss"])
    assert all(math.isfinite(point["ms_ssim"]) for point in trainer.lightning_module.rd_points)


@pytest.mark.parametrize("scheduler", ["cosine", "multistep", "plateau", "wsd"])
def test_every_schedule_runs_and_resumes(tmp_path, scheduler):
    options = [f"scheduler={scheduler}", "trainer.val_check_interval=2", "trainer.limit_val_batches=1"]
    train(configure(tmp_path, "trainer.max_steps=2", *options))
    train(configure(tmp_path, "trainer.max_steps=4", "ckpt_path=last", *options))
    assert load(tmp_path)["global_step"] == 4


@pytest.mark.parametrize("scheduler", ["constant", "plateau"])
def test_options_of_the_optimiser_given_on_resuming_hold(tmp_path, scheduler):
    options = [f"scheduler={scheduler}", "trainer.limit_val_batches=0"]
    options += ["scheduler.warmup_steps=0"] if scheduler == "constant" else []
    train(configure(tmp_path, "trainer.max_steps=1", *options))
    given = ["optimizer.lr=1e-5", "optimizer.quantile_lr=1e-2", "optimizer.betas=[0.8,0.9]", "optimizer=adamw"]
    train(configure(tmp_path, "trainer.max_steps=2", "ckpt_path=last", *options, *given))
    network, quantiles = load(tmp_path)["optimizer_states"][0]["param_groups"]
    assert (network["lr"], quantiles["lr"]) == pytest.approx((1e-5, 1e-2))
    assert (network["betas"], network["weight_decay"], quantiles["weight_decay"]) == ((0.8, 0.9), 0.01, 0)
    (schedule,) = load(tmp_path)["lr_schedulers"]
    if scheduler == "constant":
        assert schedule["base_lrs"] == [1e-5, 1e-2]
    else:
        assert schedule["min_lrs"][0] == pytest.approx(1e-7)


# --- invalid choices


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["loss=msssim", "data.patch_size=128", "data.val_crop=256"], "161"),
        (["loss=msssim", "data.patch_size=192", "data.val_crop=128"], "val_crop"),
        (["model/gain=none"], "loss.lambdas"),
        (["loss.lambdas=[0.1,0.2]"], "each level of the model, 6"),
        (["loss.level_sampling=picture"], "level_sampling"),
        (["loss.levels=[6]"], "levels of this model, 0 to 5"),
        (["loss.levels=[]"], "levels of this model, 0 to 5"),
        (["validation.qualities=[6]"], "quality|qualities"),
        (["validation.qualities=half"], r"validation\.qualities must be .*, not half"),
        (["loss.lambdas=small"], r"loss\.lambdas must be .*, not small"),
        (["loss.level_weight_power=root"], r"loss\.level_weight_power must be a number .*, not root"),
        (["optimizer.lr=-1"], r"optimizer\.lr must be a number from 0 on, not -1"),
        (["optimizer.betas=[0.9,1]"], r"optimizer\.betas"),
        (["scheduler.warmup_steps=0.1"], r"scheduler\.warmup_steps"),
        (["scheduler=plateau", "scheduler.factor=1"], r"scheduler\.factor"),
        (["seed=one"], "seed must be a whole number from 0 on, not one"),
        (["model.entropy.form=split"], "split"),
        (["optimizer.name=lion"], "adamw"),
        (["data=folder"], "data.root"),
        (["data.patch_size=100"], "multiple of 64"),
        (["scheduler=cosine", "trainer.max_steps=-1"], "total_steps"),
        (["trainer.max_time=soon"], r"trainer\.max_time must be a time above 0 .*, not soon"),
        (["trainer.max_time=00:00:00:00"], r"trainer\.max_time must be a time above 0"),
        (["trainer.precision=half"], "half"),
        (["trainer.strategy=dp9"], "dp9"),
        (["trainer.max_steps=many"], "trainer"),
        (["callbacks.last.every_n_steps=0"], r"callbacks\.last\.every_n_steps must be .*, not 0"),
        (["ckpt_path=last"], "no run"),
        (["ckpt_path=nowhere.ckpt"], "nowhere"),
        ([f"ckpt_path={Path(__file__).as_posix()}"], "must be a training checkpoint"),
    ],
)
def test_choices_that_cannot_work_are_refused_in_one_line(tmp_path, overrides, reason):
    with pytest.raises(ConfigError, match=reason) as refused:
        train(configure(tmp_path, "trainer.max_steps=1", *overrides))
    assert "\n" not in str(refused.value)


def test_a_run_that_logs_nothing_trains(tmp_path):
    train(configure(tmp_path, "trainer.max_steps=1", "trainer.log_every_n_steps=0", "trainer.limit_val_batches=0"))
    assert load(tmp_path)["global_step"] == 1


def test_a_folder_without_images_is_bad_input(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        train(configure(tmp_path / "run", "data=folder", f"data.root={tmp_path}/empty"))


def test_resuming_with_another_model_or_nothing_to_do_is_refused(uninterrupted):
    last = f"ckpt_path={uninterrupted}/checkpoints/last.ckpt"
    with pytest.raises(ConfigError, match=r"model\.gain\.levels=6"):
        train(configure(uninterrupted, last, "trainer.max_steps=9", "model.gain.levels=3"))
    with pytest.raises(ConfigError, match="above 8, the step of the checkpoint"):
        train(configure(uninterrupted, last, "trainer.max_steps=8"))


def test_the_quantiser_may_change_on_the_way(uninterrupted, tmp_path):
    last = f"ckpt_path={uninterrupted}/checkpoints/last.ckpt"
    train(configure(tmp_path, last, "trainer.max_steps=9", "model/quantizer=mixed"))
    assert load(tmp_path)["hyper_parameters"]["model"]["quantizer"] == {"name": "mixed"}


def test_a_run_starts_from_the_weights_of_another(uninterrupted, tmp_path):
    last = uninterrupted / "checkpoints/last.ckpt"
    exported = tmp_path / "model.safetensors"
    model_file.from_checkpoint(last).save(exported)
    for source in (last, exported):
        run_dir = tmp_path / source.suffix
        train(
            configure(
                run_dir, f"init_from={source}", "trainer.max_steps=1", "optimizer.lr=0", "optimizer.quantile_lr=0"
            )
        )
        assert_equal(
            {k.removeprefix("model."): w for k, w in load(run_dir)["state_dict"].items()}, load(uninterrupted)["ema"]
        )


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nowhere.safetensors", [], "nowhere.safetensors"),
        ("{last}", ["model.gain.levels=3"], r"model\.gain\.levels=6"),
    ],
)
def test_weights_that_do_not_fit_are_refused(uninterrupted, tmp_path, source, options, message):
    source = source.format(last=uninterrupted / "checkpoints/last.ckpt")
    with pytest.raises(ConfigError, match=message):
        train(configure(tmp_path, f"init_from={source}", *options))


# --- W&B


def test_a_user_is_logged_in_by_a_key_in_the_environment_or_for_this_host_in_netrc(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not loggers.logged_in()
    (tmp_path / ".netrc").write_text("machine example.org login user password 0123\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert not loggers.logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://example.org")
    assert loggers.logged_in()
    monkeypatch.delenv("WANDB_BASE_URL")
    monkeypatch.setenv("WANDB_API_KEY", "0123")
    assert loggers.logged_in()


@pytest.mark.parametrize(
    ("key", "answers", "mode"), [(None, True, "offline"), ("0", False, "offline"), ("0", True, "online")]
)
def test_only_a_user_who_is_logged_in_and_has_a_network_logs_online(tmp_path, monkeypatch, key, answers, mode):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(loggers, "logged_in", lambda: key is not None)
    monkeypatch.setattr(loggers, "reachable", lambda: answers)
    assert loggers.wandb_logger(str(tmp_path))._wandb_init["mode"] == mode


def test_a_host_answers_or_does_not(monkeypatch):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(403)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.handle_request).start()
    assert loggers.reachable()
    server.server_close()
    assert not loggers.reachable()


# --- the command


def run_train(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(cwd)} | environment
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


PROBE = """
import torch
from lightning.pytorch.callbacks import Callback


class Probe(Callback):
    def __init__(self, folder):
        self.folder, self.levels = folder, []

    def on_train_start(self, trainer, module):
        draw = module.draw_levels
        module.draw_levels = lambda size: self.levels.append(draw(size)) or self.levels[-1]

    def on_train_end(self, trainer, module):
        torch.save((self.levels, module.state_dict()), f"{self.folder}/rank{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_end_with_equal_weights_having_drawn_different_levels(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    done = run_train(
        *TINY_RUN[:-1],
        "loss=msssim",
        "data.patch_size=192",
        "data.val_crop=192",
        "trainer.devices=2",
        "trainer.max_steps=3",
        "trainer.val_check_interval=3",
        "+callbacks.probe._target_=probe.Probe",
        "+callbacks.probe.folder=.",
        cwd=tmp_path,
        PYTHONPATH=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    (levels, weights), (other_levels, other_weights) = (
        torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)
    )
    assert_equal(weights, other_weights)
    assert [a.tolist() for a in levels] != [b.tolist() for b in other_levels]
    (run_dir,) = (tmp_path / "outputs" / "train").iterdir()
    assert load(run_dir)["global_step"] == 3
    assert_equal(load(run_dir)["state_dict"], weights)
    assert [path.name for path in (run_dir / "csv").iterdir()] == ["version_0"]


@pytest.mark.slow
def test_the_command_logs_to_wandb_offline_and_resumes_in_its_run_directory(tmp_path):
    options = [*(o for o in TINY_RUN if o != "logger=csv"), "trainer.val_check_interval=2"]
    first = run_train(*options, "trainer.max_steps=2", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    (run_dir,) = (tmp_path / "outputs" / "train").iterdir()
    run_id = (run_dir / "wandb_id.txt").read_text()
    again = run_train(*options, "trainer.max_steps=4", "ckpt_path=last", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert list((tmp_path / "outputs" / "train").iterdir()) == [run_dir]
    assert load(run_dir)["global_step"] == 4
    assert (run_dir / "wandb_id.txt").read_text() == run_id
    assert len(list(run_dir.glob(f"wandb/offline-run-*{run_id.strip()}"))) == 2
    assert (run_dir / "csv" / "version_1" / "metrics.csv").exists()
    assert f"python evaluate.py checkpoint={run_dir.relative_to(tmp_path)}" in again.stdout
    assert "Traceback" not in again.stderr


@pytest.mark.parametrize("wrong", ["loss=msssim data.patch_size=128", "loss=l1", "data.patchsize=64", "loss="])
def test_a_wrong_choice_ends_the_command_with_status_2_and_one_line(tmp_path, wrong):
    done = programs.run(ROOT / "train.py", *wrong.split(), cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
