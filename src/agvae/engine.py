"""From a resolved configuration to files on disk: one linear function for each job."""

import json
import logging
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf

from agvae import configuration, extensions
from agvae.errors import ConfigError, DataError, numbers

if TYPE_CHECKING:
    from agvae.evaluation.runner import Evaluation

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Run a model and other codecs over a data set. Curves, rows, plots and BD-rates go to cfg.run_dir.

    `cfg` is conf/evaluate.yaml. Returns the content of summary.json. Raises ConfigError for a choice that cannot work,
    and DataError for a model or images that cannot be used."""
    from agvae import evaluation
    from agvae.codec import open_codec
    from agvae.data import evaluation_images
    from agvae.facts import model_facts
    from agvae.files import write_atomically
    from agvae.threads import use_threads

    if OmegaConf.is_missing(cfg, "checkpoint"):
        raise ConfigError("checkpoint must be set to a .ckpt file, a .safetensors file or the name of a shipped model")
    config = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    configuration.checked(configuration.Evaluation, config)
    extensions.trust_all(config["data"])
    use_threads(cfg.threads)
    programs = config["programs"]
    others, missing = evaluation.available_codecs([str(name) for name in _as_list(cfg.codecs)], programs)
    dataset, paths = evaluation_images(cfg.data)
    on_kodak = evaluation.slug(dataset) == "kodak"
    stand_ins = _stand_ins(missing, on_kodak)
    codec = open_codec(str(cfg.checkpoint), str(cfg.device))
    if cfg.name is not None:
        codec.name = str(cfg.name)
    qualities = None if cfg.qualities is None else numbers("qualities", cfg.qualities)
    model = evaluation.ModelCodec(codec, qualities, cfg.effort)
    output = Path(cfg.run_dir)
    results = output / "results" / evaluation.slug(dataset)
    results.mkdir(parents=True, exist_ok=True)  # an unwritable folder fails before anything is measured

    codecs: list[Any] = [model, *others]
    measured = evaluation.evaluate_codecs(codecs, paths)
    _check_measured(measured, on_kodak)
    curves = measured.curves()
    for curve in curves:
        evaluation.write_curve(curve, results / f"{evaluation.slug(curve.name)}.json")
    measured.write_csv(output / "per_image.csv")
    count = len(measured.images)
    part = f"{count} of its {evaluation.KODAK_IMAGES}" if on_kodak and count != evaluation.KODAK_IMAGES else str(count)
    title = f"{dataset}, mean over {part} images"
    _write_plots(output, title, curves, others, on_kodak, list(stand_ins.values()))
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
        "effort": model.effort,
        "missing_codecs": {
            name: {"reason": reason, "published": getattr(stand_ins[name], "name", None)}
            for name, reason in missing.items()
        },
        "bd_rate": rates,
    }
    write_atomically(output / "summary.json", f"{json.dumps(summary, indent=2, allow_nan=False)}\n".encode())
    _print_tables(ours, title, rates, output)
    return summary


def _stand_ins(missing: dict[str, str], on_kodak: bool) -> dict[str, Any]:
    """For each missing codec, its published curve or None. A warning gives the reason and the replacement."""
    from agvae import evaluation

    stand_ins = {name: evaluation.stand_in(name) if on_kodak else None for name in missing}
    for name, reason in missing.items():
        curve = stand_ins[name]
        instead = "it is left out" if curve is None else f"its published curve on Kodak, {curve.name}, stands in"
        log.warning("%s; %s", reason, instead)
    return stand_ins


def _check_measured(measured: "Evaluation", on_kodak: bool) -> None:
    """Raise DataError if no image was evaluated. Warn if published curves are means over other images."""
    from agvae.evaluation import KODAK_IMAGES

    if not measured.rows:
        path, reason = next(iter(measured.skipped.items()))
        raise DataError(f"no image was evaluated; {path}: {reason}")
    if on_kodak and len(measured.images) != KODAK_IMAGES:
        log.warning(
            "published curves are means over all %d images of Kodak, these results are over %d",
            KODAK_IMAGES,
            len(measured.images),
        )


def _write_plots(output: Path, title: str, curves: list, others: list, on_kodak: bool, stand_ins: list) -> None:
    """The RD curves for PSNR and MS-SSIM, on Kodak in front of the published ones. `stand_ins` may contain None."""
    from agvae import evaluation
    from agvae.files import write_atomically
    from agvae.reporting.figures import rd_figure

    for metric, name in (("psnr-rgb", "rd_psnr.png"), ("ms-ssim-rgb", "rd_ms_ssim.png")):
        behind = evaluation.background_curves(metric) if on_kodak else []
        behind += [curve for curve in stand_ins if curve is not None and curve not in behind]
        behind = [curve for curve in behind if curve.name not in {other.name for other in others}]
        file = BytesIO()
        rd_figure(curves, metric, behind, title).savefig(file, format="png")
        write_atomically(output / name, file.getvalue())


def _print_tables(ours: Any, title: str, rates: dict[str, Any], output: Path) -> None:
    from rich.console import Console

    from agvae import evaluation

    console = Console()
    console.print(evaluation.curve_table(ours, title))
    if rates:
        console.print(evaluation.bd_rate_table(ours.name, rates))
        console.print("\n".join(evaluation.bd_rate_notes(rates)), soft_wrap=True, highlight=False)
    console.print(f"results, tables and plots: {output}", soft_wrap=True, highlight=False)


def _as_list(value: Any) -> list:
    """A list from the configuration. A single value, as in codecs=jpeg, is a list of one."""
    return [value] if isinstance(value, str) else list(value or [])


def train(cfg: DictConfig) -> Any:
    """Train a model and leave its checkpoints, logs and RD curves in cfg.run_dir. Returns the Lightning trainer.

    `cfg` is conf/train.yaml. Raises ConfigError for a choice that cannot work, DataError for images that cannot be
    used, and SystemExit if a signal stopped the run; its last step is then saved."""
    config = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    if config["ckpt_path"] is not None:
        from agvae.training import resume

        config = resume.continued(config)
    # Configurations of earlier versions, which a resumed run goes on with, lack these keys.
    config = {"freeze": [], "init_except": [], "latents": {"crops": None}} | config
    configuration.checked(configuration.Training, config)
    extensions.trust_all(config)

    from lightning import seed_everything

    from agvae.data import ImageDataModule
    from agvae.threads import use_threads
    from agvae.training import directories, launch, messages, resume
    from agvae.training.environment import environment
    from agvae.training.latents import LatentDataModule
    from agvae.training.module import AGVAEModule
    from agvae.training.trainer import build_trainer

    launch.quiet()
    use_threads(config["threads"])
    run_dir = directories.made(config["run_dir"])
    _check(config)
    ckpt_path, checkpoint = resume.load_checkpoint(config["ckpt_path"], run_dir)
    if checkpoint:
        limits = (config["trainer"][key] for key in ("max_steps", "max_time"))
        resume.check_resumable(checkpoint, config["model"], config["freeze"], *limits)

    data: ImageDataModule = ImageDataModule.from_config(config["data"], seed=config["seed"])
    if config["latents"]["crops"] is not None:
        data = LatentDataModule(data.config, config["latents"], config["seed"])
    data.setup()
    # All ranks have the same weights. Random draws in training differ by rank.
    seed_everything(config["seed"], verbose=False)
    module = AGVAEModule(
        **{key: config[key] for key in ("model", "loss", "optimizer", "scheduler", "validation", "seed", "freeze")}
    )
    _check_exportable(module.model)
    if config["init_from"] is not None and not checkpoint:
        resume.initialise(module.model, str(config["init_from"]), config["init_except"])

    trainer = build_trainer(config, run_dir, checkpoint)
    record = {**config, "environment": environment()}
    module.run_id = checkpoint.get("run", module.run_id)
    if trainer.is_global_zero:
        directories.write_record(run_dir, record, module.facts)
    for logger in trainer.loggers:
        logger.log_hyperparams(record)

    messages.say(messages.opening(config, run_dir, trainer, module, data, checkpoint.get("global_step")))
    del checkpoint
    try:
        with launch.launched(trainer, run_dir / directories.LAST):
            trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    finally:
        messages.say(messages.closing(config, run_dir, trainer))
        if trainer.is_global_zero:
            directories.write_facts_of_best(run_dir)
    return trainer


def _check_exportable(model: Any) -> None:
    """Raise ConfigError if an AG-VAE could be trained but not exported."""
    from agvae.models import AGVAE
    from agvae.models.requirements import check_exportable

    try:
        if isinstance(model, AGVAE):
            check_exportable(model)
    except ValueError as error:
        raise ConfigError(f"this model could not be exported: {error}") from error


def _check(config: dict[str, Any]) -> None:
    """Raise ConfigError for choices of different groups that do not fit together."""
    from agvae.metrics import MS_SSIM_SMALLEST_SIDE
    from agvae.training import latents, launch

    for key in ("patch_size", "val_crop"):
        side = config["data"][key]
        if config["loss"]["name"] == "msssim" and side is not None and side < MS_SSIM_SMALLEST_SIDE:
            raise ConfigError(
                f"data.{key} must be at least 192 with loss=msssim, not {side}: MS-SSIM compares five scales, which "
                "need "
                f"sides of at least {MS_SSIM_SMALLEST_SIDE} pixels"
            )
    if config["latents"]["crops"] is not None:
        latents.check_size(config["latents"], config["model"]["transforms"]["M"], config["data"]["patch_size"])
    trainer = config["trainer"]
    if config["freeze"] and str(trainer["strategy"]).startswith("fsdp"):
        raise ConfigError(
            "freeze must be [] under FSDP, which holds trained and frozen weights as one: use trainer=ddp"
        )
    launch.check_sharding(trainer["strategy"], trainer["precision"], config["ema"]["decay"], config["compile"] is True)
