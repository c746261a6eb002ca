"""From a resolved configuration to files on disk: a linear page for each job."""

import json
import logging
from io import BytesIO
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from agvae.errors import ConfigError, DataError, numbers

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Run a model and other codecs over a data set; curves, rows, plots and BD-rates go to cfg.run_dir.

    `cfg` is conf/evaluate.yaml. Returns what summary.json holds. Raises ConfigError for a choice that cannot
    work, and DataError for a model or images that cannot be used.
    """
    from rich.console import Console

    from agvae import evaluation
    from agvae.codec import open_codec
    from agvae.data import evaluation_images
    from agvae.facts import model_facts
    from agvae.files import write_atomically
    from agvae.reporting.figures import rd_figure

    if OmegaConf.is_missing(cfg, "checkpoint"):
        raise ConfigError("checkpoint=… is not set: name a .ckpt, a .safetensors file or a shipped model")
    programs = OmegaConf.to_container(cfg.programs, resolve=True)
    others, missing = evaluation.available_codecs([str(name) for name in _as_list(cfg.codecs)], programs)
    dataset, paths = evaluation_images(cfg.data)
    on_kodak = evaluation.slug(dataset) == "kodak"
    stand_ins = {name: evaluation.stand_in(name) if on_kodak else None for name in missing}
    for name, reason in missing.items():
        curve = stand_ins[name]
        instead = "it is left out" if curve is None else f"its published curve on Kodak, {curve.name}, stands in"
        log.warning("%s; %s", reason, instead)
    codec = open_codec(str(cfg.checkpoint), str(cfg.device))
    if cfg.name is not None:
        codec.name = str(cfg.name)
    model = evaluation.ModelCodec(codec, _qualities(cfg))
    output = Path(cfg.run_dir)
    results = output / "results" / evaluation.slug(dataset)
    results.mkdir(parents=True, exist_ok=True)  # what cannot be written fails before anything is measured

    measured = evaluation.evaluate_codecs([model, *others], paths)
    if not measured.rows:
        reasons = [f"{path}: {reason}" for path, reason in measured.skipped.items()]
        raise DataError("no image was evaluated" + (f"; {reasons[0]}" if reasons else ": interrupted"))

    curves = measured.curves()
    for curve in curves:
        evaluation.write_curve(curve, results / f"{evaluation.slug(curve.name)}.json")
    measured.write_csv(output / "per_image.csv")

    if on_kodak and len(measured.images) != evaluation.KODAK_IMAGES:
        log.warning(
            "published curves are means over all %d images of Kodak, these results are over %d",
            evaluation.KODAK_IMAGES,
            len(measured.images),
        )
    title = f"{dataset}, mean over {len(measured.images)} images"
    for metric, name in (("psnr-rgb", "rd_psnr.png"), ("ms-ssim-rgb", "rd_ms_ssim.png")):
        behind = evaluation.background_curves(metric) if on_kodak else []
        behind += [curve for curve in stand_ins.values() if curve is not None and curve not in behind]
        behind = [curve for curve in behind if curve.name not in {other.name for other in others}]
        file = BytesIO()
        rd_figure(curves, metric, behind, title).savefig(file, format="png")
        write_atomically(output / name, file.getvalue())

    ours, anchors = curves[0], curves[1:]
    rates = evaluation.bd_rates(ours, anchors, evaluation.published_curves() if on_kodak else ())
    summary = {
        "dataset": dataset,
        "images": len(measured.images),
        "without_ms_ssim": measured.without_ms_ssim,
        "skipped": measured.skipped,
        "interrupted": measured.interrupted,
        "checkpoint": str(cfg.checkpoint),
        "model": ours.name,
        "facts": model_facts(codec),
        "missing_codecs": {
            name: {"reason": reason, "published": stand_ins[name] and stand_ins[name].name}
            for name, reason in missing.items()
        },
        "bd_rate": rates,
    }
    write_atomically(output / "summary.json", f"{json.dumps(summary, indent=2, allow_nan=False)}\n".encode())

    console = Console()
    console.print(evaluation.curve_table(ours, title))
    if rates:
        console.print(evaluation.bd_rate_table(ours.name, rates))
        console.print("\n".join(evaluation.bd_rate_notes(rates)), soft_wrap=True, highlight=False)
    console.print(f"results, tables and plots: {output}", soft_wrap=True, highlight=False)
    return summary


def _qualities(cfg: DictConfig) -> list[float] | None:
    if cfg.qualities is None:
        return None
    qualities = numbers("qualities", cfg.qualities)
    if not qualities:
        raise ConfigError("qualities=[] leaves nothing to evaluate: qualities=null is every level")
    return qualities


def _as_list(value: Any) -> list:
    """A list from the configuration; a value on its own, as in codecs=jpeg, is a list of one."""
    return [value] if isinstance(value, str) else list(value or [])


def train(cfg: DictConfig) -> Any:
    """Train a model and leave its checkpoints, logs and RD curves in cfg.run_dir; returns the Lightning trainer.

    `cfg` is conf/train.yaml. Raises ConfigError for a choice that cannot work, DataError for images that cannot
    be used, and SystemExit when a signal stopped the run, whose last step is then on disk all the same.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from lightning import Trainer, seed_everything
    from lightning.pytorch.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from agvae.data import ImageDataModule
    from agvae.facts import write_run_facts
    from agvae.files import remove_asides, write_atomically
    from agvae.training import acceleration, launch, runs
    from agvae.training.callbacks import EMA, Compile
    from agvae.training.checkpoints import AtomicCheckpointIO
    from agvae.training.environment import environment
    from agvae.training.loggers import never_fails
    from agvae.training.losses import MS_SSIM_SMALLEST_SIDE
    from agvae.training.module import AGVAEModule

    launch.quiet()
    say = rank_zero_only(print)
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    run_dir = Path(cfg.run_dir)
    if run_dir.is_relative_to(Path.cwd()):
        run_dir = run_dir.relative_to(Path.cwd())
    (run_dir / runs.CHECKPOINTS).mkdir(parents=True, exist_ok=True)

    for key in ("patch_size", "val_crop"):
        side = config["data"][key]
        if config["loss"]["name"] == "msssim" and side is not None and side < MS_SSIM_SMALLEST_SIDE:
            raise ConfigError(
                f"loss=msssim compares pictures at five scales, which need sides of at least {MS_SSIM_SMALLEST_SIDE} "
                f"pixels, and data.{key}={side}: set data.{key}=192 or more"
            )
    if type(cfg.seed) is not int or cfg.seed < 0:
        raise ConfigError(f"seed={cfg.seed} is not a whole number from 0 on")
    launch.check_sharding(cfg.trainer.strategy, cfg.trainer.precision, cfg.ema.decay, cfg.compile)
    ckpt_path, checkpoint = runs.load_checkpoint(cfg.ckpt_path, run_dir)
    if checkpoint:
        runs.check_resumable(checkpoint, config["model"], cfg.trainer.max_steps)

    data = ImageDataModule.from_config(config["data"], seed=cfg.seed)
    data.setup()
    # The same weights on every rank; what is drawn in training differs by rank.
    seed_everything(cfg.seed, verbose=False)
    module = AGVAEModule(
        **{key: config[key] for key in ("model", "loss", "optimizer", "scheduler", "validation", "seed")}
    )
    if cfg.init_from is not None and not checkpoint:
        _initialise(module.model, str(cfg.init_from))

    interval, steps = config["trainer"]["val_check_interval"], config["trainer"]["max_steps"]
    if isinstance(interval, int) and isinstance(steps, int) and 0 < steps < interval:
        config["trainer"]["val_check_interval"] = steps  # so that a short run ends with an RD curve too
    averaging = [EMA(cfg.ema.decay)] if cfg.ema.decay is not None else []
    compiling = [Compile()] if cfg.compile else []
    callbacks = [launch.Quiet(), *averaging, *compiling]
    try:
        callbacks += [instantiate(callback) for callback in cfg.callbacks.values() if callback]
        loggers = [never_fails(instantiate(logger)) for logger in cfg.logger.values() if logger]
    except InstantiationException as error:
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        raise
    if config["trainer"]["precision"] == "auto":
        precision = acceleration.choose_precision(config["trainer"], config["model"], checkpoint.get("precision"))
        config["trainer"]["precision"] = precision
    try:
        trainer = Trainer(
            **config["trainer"],
            default_root_dir=run_dir,
            callbacks=callbacks,
            logger=loggers,
            plugins=[AtomicCheckpointIO()],
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error
    if trainer.is_global_zero:
        remove_asides(run_dir / runs.CHECKPOINTS)  # a process that was killed while it saved left them
    if trainer.strategy.root_device.type == "cpu":
        acceleration.keep_freed_memory()
    record = {**config, "environment": environment()}
    if trainer.is_global_zero:
        try:
            write_atomically(run_dir / runs.CONFIG, OmegaConf.to_yaml(record).encode())
        except OSError as error:
            raise DataError(f"the run cannot be written: {error}; free some space, or set hydra.run.dir") from error
    for logger in trainer.loggers:
        logger.log_hyperparams(record)
    module.run_id = checkpoint.get("run", module.run_id)
    if trainer.is_global_zero:
        write_run_facts(run_dir, {"run": module.run_id, **{key: module.hparams[key] for key in ("model", "loss")}})

    say(f"run:        {run_dir}" + (f", from step {checkpoint['global_step']}" if checkpoint else ""))
    say(f"model:      {sum(p.numel() for p in module.model.parameters()):,} parameters, {_model_name(config)}")
    say(f"levels:     {module.model.levels}, λ = {', '.join(f'{value:.4g}' for value in module.lambdas)}")
    say(f"data:       {len(data.patches)} images to train on, {len(data.pictures)} to validate on")
    say(f"batch:      {_batch(trainer, config['data']['batch_size'])}")
    say(f"rate:       {config['optimizer']['lr']:g}, {config['scheduler']['name']}, on any number of devices")
    say(f"precision:  {trainer.precision} on {type(trainer.accelerator).__name__.removesuffix('Accelerator')}")
    del checkpoint
    try:
        with launch.launched(trainer, run_dir / runs.LAST):
            trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    finally:
        folder = run_dir / runs.CHECKPOINTS
        kept = sorted(path.name for path in folder.glob("*.ckpt"))
        if kept and trainer.global_step:
            best = folder / ("best.ckpt" if "best.ckpt" in kept else "last.ckpt")
            say(f"stopped:    after step {trainer.global_step}; checkpoints in {folder}: {', '.join(kept)}")
            say(f"logs:       {', '.join(_log_places(run_dir))}")
            say(f"go on with: python evaluate.py checkpoint={best}")
            say(f"            agvae export {best} model.safetensors")
            if trainer.global_step != trainer.max_steps:
                say(f"            {_resume_command(folder / 'last.ckpt')}")
    if trainer.is_global_zero and kept:
        _write_final_facts(run_dir, folder / ("best.ckpt" if "best.ckpt" in kept else "last.ckpt"))
    return trainer


def _write_final_facts(run_dir: Path, checkpoint: Path) -> None:
    """Add the steps and the fingerprint of the run's best checkpoint to its facts."""
    from agvae.codec import model_file
    from agvae.facts import model_facts, write_run_facts

    try:
        write_run_facts(run_dir, model_facts(model_file.from_checkpoint(checkpoint)))
    except (model_file.ModelError, OSError) as error:
        log.warning("the run's facts lack its steps and fingerprint: %s", error)


def _initialise(model: Any, name_or_path: str) -> None:
    """Give `model` the weights of a checkpoint, averaged ones where it has them, of a model file or a shipped model."""
    from agvae.codec import model_file
    from agvae.training import runs

    read = model_file.from_checkpoint if name_or_path.endswith(".ckpt") else model_file.load
    try:
        found = read(name_or_path)
    except model_file.ModelError as error:
        raise ConfigError(f"init_from={name_or_path}: {error}") from error
    if different := runs.differences(found.config, model.config):
        raise ConfigError(f"init_from={name_or_path} is another model: it has {' '.join(different)}")
    model.load_state_dict(found.weights)


def _batch(trainer: Any, batch_size: int) -> str:
    """Patches of an optimiser step, and how they come together."""
    parts = [f"{batch_size} on each of {trainer.world_size} device{'s' * (trainer.world_size > 1)}"]
    if trainer.num_nodes > 1:
        parts.append(f"{trainer.num_nodes} nodes")
    if trainer.accumulate_grad_batches > 1:
        parts.append(f"{trainer.accumulate_grad_batches} batches accumulated")
    step = batch_size * trainer.world_size * trainer.accumulate_grad_batches
    whole = f", {step * trainer.max_steps:,} in {trainer.max_steps:,} steps" if trainer.max_steps > 0 else ""
    return f"{step} patches a step ({', '.join(parts)}){whole}"


def _model_name(config: dict[str, Any]) -> str:
    model = config["model"]
    return ", ".join(f"{part} {choice['name']}" for part, choice in model.items())


def _resume_command(last: Path) -> str:
    import shlex

    from hydra.core.hydra_config import HydraConfig

    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    kept = [override for override in given if not override.startswith("ckpt_path=")]
    return shlex.join(["python", "train.py", *kept, f"ckpt_path={last}"])


def _log_places(run_dir: Path) -> list[str]:
    return [str(run_dir / name) for name in ("rd.csv", "csv", "wandb", "tensorboard") if (run_dir / name).exists()]
