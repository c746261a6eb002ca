"""A run's time budget: the share of it that is used, the same on all ranks, and the end of the run."""

import time
from collections.abc import Callable
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.optim import Optimizer


class Budget(Callback):
    """Ends a run after `seconds`, and knows the share of them that is used, which the learning rate follows.

    Everything in `Trainer.fit` counts: compilation, validations, waiting for data. A checkpoint holds the time that
    is used, so that a resumed run has the rest. Only the first rank's clock counts. It is read after every thousandth
    of the budget, or every second if that is shorter; in between the share stays as it is on all ranks.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        self.seconds = seconds
        self.clock = clock
        self.before = 0.0  # seconds used before the checkpoint that the run resumes from
        self.began: float | None = None
        self.share = 0.0
        self.asked: tuple[int, float] | None = None  # step and seconds when the clock was last read
        self.next_step = 0

    @property
    def elapsed(self) -> float:
        """Seconds used so far, by this rank's clock."""
        return self.before + (0.0 if self.began is None else self.clock() - self.began)

    @property
    def left(self) -> float:
        """Seconds left, by this rank's clock; not below 0."""
        return max(0.0, self.seconds - self.elapsed)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = self.clock()
        self.share = min(1.0, self.before / self.seconds)
        self.asked, self.next_step = None, 0

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        step = trainer.global_step
        if step < self.next_step:
            return
        elapsed = trainer.strategy.broadcast(self.elapsed)
        wait = 1
        if self.asked is not None:
            a_step = (elapsed - self.asked[1]) / (step - self.asked[0])
            wait = max(1, int(min(1.0, self.seconds / 1000) / a_step)) if a_step else 1
        self.share = min(1.0, elapsed / self.seconds)
        self.asked, self.next_step = (step, elapsed), step + wait

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.share >= 1:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, float]:
        return {"elapsed": self.elapsed}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.before = state["elapsed"]


def budget_of(trainer: Trainer) -> Budget | None:
    """The time budget of a run, None if it has none."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, Budget)), None)
