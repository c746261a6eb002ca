"""Lines that a run prints on standard output: its settings at the start, and its files and next commands at the end."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from agvae.data import ImageDataModule
from agvae.models.trainable import is_peer
from agvae.shipped import DEFAULT_MODEL
from agvae.training.budget import budget_of
from agvae.training.directories import CHECKPOINTS, LAST, best_checkpoint
from agvae.training.module import AGVAEModule
from agvae.training.pace import duration


@rank_zero_only
def say(lines: Iterator[str]) -> None:
    """Print lines on the first rank only."""
    for line in lines:
        print(line)


def opening(
    config: dict[str, Any],
    run_dir: Path,
    trainer: Trainer,
    module: AGVAEModule,
    data: ImageDataModule,
    first_step: int | None,
) -> Iterator[str]:
    """The settings of a run that starts, or resumes from `first_step`."""
    yield f"run:        {run_dir}" + (f", from step {first_step}" if first_step is not None else "")
    yield f"model:      {sum(p.numel() for p in module.model.parameters()):,} parameters, {_model_name(config)}"
    if module.frozen:
        loss = "the rate alone" if module.rate_only else "rate and distortion"
        yield f"frozen:     {', '.join(config['freeze'])}; the loss is {loss}"
    yield f"levels:     {module.model.levels}, λ = {', '.join(f'{value:.4g}' for value in module.lambdas)}"
    yield f"data:       {len(data.patches or ())} images to train on, {len(data.pictures or ())} to validate on"
    yield f"batch:      {_batch(trainer, config['data']['batch_size'])}"
    yield f"rate:       {config['optimizer']['lr']:g}, {config['scheduler']['name']}, on any number of devices"
    yield from _too_long(config["scheduler"], trainer.max_steps)
    if budget := budget_of(trainer):
        yield f"time:       {duration(budget.seconds)} for the whole run, compilation and validations included"
    yield f"precision:  {trainer.precision} on {type(trainer.accelerator).__name__.removesuffix('Accelerator')}"


def closing(config: dict[str, Any], run_dir: Path, trainer: Trainer) -> Iterator[str]:
    """The files of a run that has ended after at least one step, and commands to continue with.

    A model of another project is evaluated beside one of ours."""
    folder = run_dir / CHECKPOINTS
    kept = sorted(path.name for path in folder.glob("*.ckpt"))
    if not kept or not trainer.global_step:
        return
    best = best_checkpoint(run_dir)
    logs = [str(run_dir / name) for name in ("rd.csv", "csv", "wandb", "tensorboard") if (run_dir / name).exists()]
    yield f"stopped:    after step {trainer.global_step}; checkpoints in {folder}: {', '.join(kept)}"
    yield f"logs:       {', '.join(logs)}"
    if is_peer(config["model"]):
        yield f"next steps: python evaluate.py checkpoint={DEFAULT_MODEL} codecs=[compressai:{best}]"
    else:
        yield f"next steps: python evaluate.py checkpoint={best}"
        yield f"            agvae export {best} model.safetensors"
    budget = budget_of(trainer)
    if trainer.global_step != trainer.max_steps and not (budget and budget.share >= 1):
        yield f"            {shlex.join(['python', 'train.py', f'ckpt_path={run_dir / LAST}'])}"


def _too_long(scheduler: dict[str, Any], steps: int) -> Iterator[str]:
    """Lines about a warm-up or a decay that does not fit into a run of this many steps."""
    for key, consequence in (
        ("warmup_steps", "the learning rate does not reach its maximum"),
        ("total_steps", "the learning rate does not fall to its final value"),
    ):
        value = scheduler.get(key)
        if value is not None and 0 < steps < value:
            yield f"note:       scheduler.{key}={value} is longer than the run of {steps} steps: {consequence}"


def _model_name(config: dict[str, Any]) -> str:
    model = config["model"]
    if is_peer(model):
        return f"{model['architecture']} of CompressAI"
    return ", ".join(f"{part} {choice['name']}" for part, choice in model.items())


def _batch(trainer: Trainer, batch_size: int) -> str:
    """Patches of an optimiser step, and how they are composed."""
    parts = [f"{batch_size} on each of {trainer.world_size} device{'s' * (trainer.world_size > 1)}"]
    if trainer.num_nodes > 1:
        parts.append(f"{trainer.num_nodes} nodes")
    if trainer.accumulate_grad_batches > 1:
        parts.append(f"{trainer.accumulate_grad_batches} batches accumulated")
    step = batch_size * trainer.world_size * trainer.accumulate_grad_batches
    whole = f", {step * trainer.max_steps:,} in {trainer.max_steps:,} steps" if trainer.max_steps > 0 else ""
    return f"{step} patches a step ({', '.join(parts)}){whole}"
