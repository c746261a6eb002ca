"""Forward and backward pass of a training step as one CUDA graph, which a GPU runs without waiting for Python."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from lightning import Trainer
from torch import Tensor, nn

from agvae.training.objective import Objective, StepLoss

_WARM_UPS = 3
"""Passes before the recording. They compile, choose algorithms and reserve memory."""


class CapturedStep:
    """The loss and the gradients of a batch, from a graph that was recorded once.

    Each replay writes the gradients anew into the same memory, so nothing needs to be set to zero before it. Random
    numbers come from the device's generator, as in the recorded functions: after the same seed, a replay draws what
    they would draw.

    The recording changes no parameter, buffer, gradient or state of a random generator. Raises RuntimeError or what
    the functions raise if they cannot be recorded: if something in them waits for the device."""

    def __init__(
        self,
        objective: Objective,
        module: nn.Module,
        source: Tensor,
        level: Tensor,
        autocast: Callable[[], contextlib.AbstractContextManager],
    ):
        """Record `objective` of the batch `source` and `level`, whose shapes and types all batches must have. `module`
        has the parameters, and `autocast` makes the context of the forward pass."""
        self.source, self.level = source.clone(), level.clone()
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.objective, self.autocast = objective, autocast
        with state_kept(module, source.device), _fast_algorithms(), torch.enable_grad():
            try:
                self._warm_up()
                self._record()
            except BaseException:
                _free_generator(source.device)
                raise
            finally:
                _forget_gradients(self.parameters)

    def _pass(self) -> StepLoss:
        with self.autocast():
            losses = self.objective(self.source, self.level)
        losses.total.backward()
        return losses

    def _warm_up(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for index in range(_WARM_UPS):
                _forget_gradients(self.parameters)
                # The last one fails where a recording would fail, and leaves no half-recorded graph.
                with _no_waiting() if index == _WARM_UPS - 1 else contextlib.nullcontext():
                    self._pass()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()

    def _record(self) -> None:
        _forget_gradients(self.parameters)
        self.graph = torch.cuda.CUDAGraph()
        # thread_local: other threads, which load data, may use the device meanwhile.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            losses = self._pass()
        self.losses = StepLoss(*(value.detach() for value in losses))
        self.gradients = [p.grad for p in self.parameters]

    def fits(self, source: Tensor) -> bool:
        """Whether the graph is of such a batch."""
        return source.shape == self.source.shape and source.dtype == self.source.dtype

    def __call__(self, source: Tensor, level: Tensor) -> StepLoss:
        """The loss of a batch that fits, in memory that the next call overwrites. The parameters have its gradients."""
        self.source.copy_(source, non_blocking=True)
        self.level.copy_(level, non_blocking=True)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient  # a step that was not replayed has put others there
        return self.losses


def obstacle(trainer: Trainer, rate_only: bool) -> str | None:
    """Why the steps of a run cannot be one graph; None if they can."""
    if trainer.strategy.root_device.type != "cuda":
        return "the device is no CUDA device"
    if trainer.world_size > 1:
        return f"{trainer.world_size} processes exchange gradients"
    if trainer.accumulate_grad_batches > 1:
        return "trainer.accumulate_grad_batches is above 1"
    if trainer.precision == "16-mixed":
        return "trainer.precision=16-mixed scales the loss"
    if rate_only:
        return "frozen g_a, g_s and gain leave the rate alone"
    return None


def _forget_gradients(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


@contextlib.contextmanager
def state_kept(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Afterwards, buffers, such as running means, and the random generators are as before."""
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in kept:
                    buffer.copy_(value)


@contextlib.contextmanager
def _fast_algorithms() -> Iterator[None]:
    """Let cuDNN try its algorithms, unless they must be deterministic; the graph keeps those that were fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextlib.contextmanager
def _no_waiting() -> Iterator[None]:
    """Whatever waits for the device raises RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "prototype feature"
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


def _free_generator(device: torch.device) -> None:
    """Give the device's generator a new state, because a recording that failed leaves the old one unusable."""
    generator = torch.cuda.default_generators[device.index or 0]
    generator.graphsafe_set_state(torch.Generator(device).graphsafe_get_state())
