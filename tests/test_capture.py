"""Fast training steps: compiled functions and a recorded step give what the plain step gives, and wait for nothing."""

import copy
import functools
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import at_random, lively_model
from lightning.pytorch.callbacks import Callback
from test_training import assert_equal, configure, inject, load
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from agvae.engine import train
from agvae.metrics import ms_ssim_of_batch
from agvae.models.kernels import depthwise_training
from agvae.models.layers import DepthwiseBlock
from agvae.training import capture, compilation
from agvae.training.callbacks import EMA
from agvae.training.module import AGVAEModule

__all__ = ["inject"]

CONTEXTS = ["none", "checkerboard", "multiscale", "quadtree"]

BASE = {
    "transforms": {"name": "depthwise", "N": 8, "M": 12, "blocks": 2, "H": 8},
    "gain": {"name": "hcvr", "levels": 3},
    "entropy": {"name": "asymmetric", "form": "half_mass", "tail": 0.1},
    "context": {"name": "quadtree", "width": 6},
    "quantizer": {"name": "mixed"},
}


def module_of(loss: str = "mse", **parts) -> AGVAEModule:
    """A module with random weights that spread as trained ones do."""
    config = copy.deepcopy(BASE)
    for name, value in parts.items():
        config[name] = {**config[name], **value} if name != "context" else value
    lambdas = [0.001, 0.01, 0.1][: config["gain"]["levels"]]
    module = AGVAEModule(
        model=config,
        loss={
            "name": loss, "lambdas": lambdas, "ladder": lambdas, "level_weight_power": 0.5,
            "level_sampling": "stratified", "levels": None,
        },
        optimizer={"name": "adam", "lr": 1e-4, "quantile_lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0.0},
        scheduler={"name": "constant", "warmup_steps": 0},
        validation={"qualities": None},
    )  # fmt: skip
    module.model.load_state_dict(lively_model(config).state_dict())
    module.memory_format = torch.channels_last
    module.model.to(memory_format=torch.channels_last)
    return module


def batch_of(levels: int, side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    coarse = torch.rand(3, 3, side // 16, side // 16, generator=torch.Generator().manual_seed(0))
    image = nn.functional.interpolate(coarse, scale_factor=16, mode="bicubic").clamp(0, 1)
    return (image * 255).byte(), torch.arange(3) % levels


def outcome(module: AGVAEModule, image: torch.Tensor, level: torch.Tensor):
    """Bits per pixel, the loss and the gradients of a batch with fixed noise."""
    torch.manual_seed(1)
    module.zero_grad()
    losses = module.objective(image, level)
    losses.total.backward()
    gradients = {name: p.grad.clone() for name, p in module.model.named_parameters() if p.grad is not None}
    return losses.bpp.detach(), losses.total.detach(), gradients


def assert_alike(plain, fast):
    torch.testing.assert_close(fast[0], plain[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(fast[1], plain[1], rtol=1e-5, atol=0)
    assert plain[2].keys() == fast[2].keys()
    for name, gradient in plain[2].items():
        assert (fast[2][name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-7, name


CASES = [
    *({"context": {"name": name, "width": 6} if name != "none" else {"name": name}} for name in CONTEXTS),
    {"gain": {"name": "cvr"}},
    {"gain": {"name": "none", "levels": 1}},
    {"quantizer": {"name": "noise"}},
    {"quantizer": {"name": "universal"}},
    {"entropy": {"name": "asymmetric", "form": "two_piece", "tail": 0.0}},
    {"entropy": {"name": "symmetric"}},
]


@pytest.mark.parametrize("parts", CASES, ids=lambda parts: str(next(iter(parts.values()))["name"]))
def test_the_form_for_a_gpu_has_the_loss_and_the_gradients_of_the_formula(parts, monkeypatch):
    module = module_of(**parts)
    batch = batch_of(module.model.levels)
    plain = outcome(module, *batch)
    monkeypatch.setattr("torch.compile", lambda function, **_: function)
    forms = compilation.compiled_forms(module.model)
    compilation.put_in_place(forms)
    assert "forward" in vars(module.model.g_a)
    assert_alike(plain, outcome(module, *batch))
    compilation.take_away(forms)
    assert torch.equal(outcome(module, *batch)[0], plain[0])


def test_the_form_for_a_gpu_has_the_loss_of_ms_ssim(monkeypatch):
    module = module_of("msssim")
    batch = batch_of(3, side=192)
    plain = outcome(module, *batch)
    monkeypatch.setattr("torch.compile", lambda function, **_: function)
    compilation.put_in_place(compilation.compiled_forms(module.model))
    assert_alike(plain, outcome(module, *batch))


def test_a_block_in_rows_is_the_formula():
    torch.manual_seed(0)
    layer = at_random(DepthwiseBlock(8))
    x = torch.randn(2, 8, 12, 10).contiguous(memory_format=torch.channels_last)
    network = nn.Sequential(layer)
    found = depthwise_training.run(network, depthwise_training.block, x)
    torch.testing.assert_close(found, layer(x), rtol=1e-5, atol=1e-5)


def test_under_autocast_the_stream_stays_in_float32():
    module = module_of()
    x = torch.rand(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    run = functools.partial(depthwise_training.run, module.model.g_a, depthwise_training.block)
    with torch.autocast("cpu", torch.bfloat16):
        low = run(x)
    assert low.dtype == torch.float32
    exact = run(x)
    assert not torch.equal(low, exact)
    assert (low - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("size", [(192, 192), (161, 190)])
def test_ms_ssim_of_a_batch_is_that_of_the_reference(size):
    from pytorch_msssim import ms_ssim

    torch.manual_seed(0)
    x = torch.rand(2, 3, *size)
    x_hat = (x + 0.1 * torch.randn_like(x)).clamp(0, 1).requires_grad_()
    ours, theirs = ms_ssim_of_batch(x_hat, x), ms_ssim(x_hat, x, data_range=1, size_average=False)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    gradients = [torch.autograd.grad(value.sum(), x_hat)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-9)


WAITING = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "is_nonzero", "unique", "item")


class NothingWaits(TorchDispatchMode):
    """Raises for operations for which a process would wait for a GPU."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function._schema.name.removeprefix("aten::")
        if any(name == waiting or name.startswith(f"_{waiting}") for waiting in WAITING):
            raise AssertionError(f"{name} waits for the device")
        if name == "index" and any(i is not None and i.dtype == torch.bool for i in arguments[1]):
            raise AssertionError("an index of booleans waits for the device")
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("loss", ["mse", "msssim"])
def test_nothing_in_a_step_waits_for_the_device(loss, monkeypatch):
    module = module_of(loss)
    batch = batch_of(3, side=192 if loss == "msssim" else 64)
    outcome(module, *batch)
    monkeypatch.setattr("torch.compile", lambda function, **_: function)
    compilation.put_in_place(compilation.compiled_forms(module.model))
    trainer = SimpleNamespace(precision="32-true", callbacks=[], global_step=1, log_every_n_steps=0, strategy=None)
    monkeypatch.setattr(AGVAEModule, "trainer", trainer)
    monkeypatch.setattr(AGVAEModule, "log", lambda *_, **__: None)
    monkeypatch.setattr(AGVAEModule, "_run_length", lambda _: 10)
    optimizer = module.configure_optimizers()["optimizer"]
    average = EMA(0.9)
    average.on_fit_start(SimpleNamespace(global_step=0), module)
    with NothingWaits():
        module.draw_levels(3)
        losses = module.objective(*batch)
        losses.total.backward()
        module._log_step(losses.detached(), batch[1])
        module.configure_gradient_clipping(optimizer, 1.0, "norm")
        optimizer.step()
        average.on_train_batch_end(trainer, module)
    assert module.step_skipped.dtype == torch.bool


class Replayed:
    """`CapturedStep` without a GPU: the loss, and gradients in memory that each call writes anew."""

    def __init__(self, objective, model, image, level, autocast):
        self.objective, self.shape, self.calls = objective, image.shape, 0
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.gradients = [torch.full_like(p, torch.nan) for p in self.parameters]

    def fits(self, image):
        return image.shape == self.shape

    def __call__(self, image, level):
        self.calls += 1
        losses = self.objective(image, level)
        found = torch.autograd.grad(losses.total, self.parameters)
        for parameter, memory, gradient in zip(self.parameters, self.gradients, found, strict=True):
            parameter.grad = memory.copy_(gradient)
        return losses.detached()


def test_a_run_with_a_recorded_step_equals_one_without(tmp_path, inject):
    options = ["trainer.max_steps=5", "trainer.val_check_interval=2", "ema.decay=0.9"]
    train(configure(tmp_path / "plain", *options))
    recorded = []

    class Recorded(Callback):
        def on_train_start(self, trainer, pl_module):
            recorded.append(Replayed(pl_module.objective, pl_module.model, torch.empty(2, 3, 64, 64), None, None))
            pl_module.captured = recorded[-1]

    inject(Recorded())
    train(configure(tmp_path / "recorded", *options))
    assert recorded[0].calls == 5
    one, other = load(tmp_path / "plain"), load(tmp_path / "recorded")
    assert_equal(one["state_dict"], other["state_dict"])
    assert_equal(one["ema"], other["ema"])


def test_compile_auto_does_nothing_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.compile", None)
    train(configure(tmp_path, "trainer.max_steps=1", "compile=auto"))


def test_trying_a_step_leaves_no_trace():
    module = module_of()
    module.model.register_buffer("mean", torch.zeros(()))
    before, random = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    with capture.state_kept(module.model, torch.device("cpu")):
        torch.rand(3)
        module.model.mean += 1
    assert torch.equal(torch.get_rng_state(), random)
    assert_equal(module.state_dict(), before)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"device": "cpu"}, "no CUDA device"),
        ({"world_size": 2}, "2 processes"),
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches"),
        ({"precision": "16-mixed"}, "16-mixed"),
        ({"rate_only": True}, "rate alone"),
    ],
)
def test_what_keeps_a_step_from_being_recorded_is_named(change, reason):
    facts = {"device": "cuda", "world_size": 1, "accumulate_grad_batches": 1, "precision": "bf16-mixed", **change}
    rate_only, device = facts.pop("rate_only", False), facts.pop("device")
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)), **facts)
    found = capture.obstacle(trainer, rate_only)
    assert found is None if reason is None else reason in found


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("context", CONTEXTS)
def test_a_compiled_model_has_the_loss_and_the_gradients_of_the_formula(context):
    module = module_of(context={"name": context, "width": 6} if context != "none" else {"name": context})
    batch = batch_of(3)
    plain = outcome(module, *batch)
    compilation.put_in_place(compilation.compiled_forms(module.model))
    torch._dynamo.utils.counters.clear()
    assert_alike(plain, outcome(module, *batch))
    assert not torch._dynamo.utils.counters["graph_break"]
