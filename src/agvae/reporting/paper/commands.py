"""The commands, one for each figure or table. Each reads its inputs, draws or counts, and writes its files."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agvae.errors import ConfigError, DataError
from agvae.reporting.paper.files import load, save, table, write, write_json
from agvae.reporting.paper.pictures import PAPER_TARGETS, Result, at_target, boxes_of, ours_at_rate

# The commands import torch and modules that need it, so that a wrong argument is reported first.

if TYPE_CHECKING:
    from agvae.evaluation import Curve
    from agvae.evaluation.classical import ClassicalCodec

PAPER_LEVELS = 6

_OURS = {"mse": "AG-VAE [MSE]", "msssim": "AG-VAE [MS-SSIM]"}


def figure1(options: argparse.Namespace) -> None:
    """Gain vectors over channels: m and m′ of y at each level, and those of z if it has gain."""
    from agvae.codec import open_codec
    from agvae.reporting.figures import gain_figure

    codec = open_codec(options.model, options.device)
    if codec.model.gain is None:
        raise DataError(
            f"{options.model}: is a fixed-rate model (gain none) and has no gain vectors; choose a model with gain "
            "cvr or hcvr"
        )
    numbers = {}
    for latent, unit, name in (("y", codec.model.gain, "figure1"), ("z", codec.model.hyper_gain, "figure1_z")):
        if unit is not None:
            levels = [float(level) for level in range(codec.levels)]
            m, inverse = (np.stack([gain(q).cpu().numpy() for q in levels]) for gain in (unit.gain, unit.inverse))
            title = f"{codec.name}: gain vectors of {latent}, {codec.levels} levels"
            save(gain_figure(m, inverse, title), options, name)
            numbers[latent] = {"gain": m.tolist(), "inverse_gain": inverse.tolist()}
    write_json(numbers, options, "figure1")


def figure2(options: argparse.Namespace) -> None:
    """The channel that takes most bits, its histogram, the entropy models over it, and their variances.

    The figure compares the asymmetric model with its symmetric counterpart on the same latent: for each element, the
    Gaussian of the same mean and variance. With --symmetric, it also shows a second model, which was trained symmetric,
    on its own latent at equal PSNR."""
    from agvae.codec import open_codec
    from agvae.reporting.latents import bits, gaussian_of
    from agvae.reporting.paper.figures import latent_figure
    from agvae.reporting.paper.latent_view import LatentView

    codec = open_codec(options.model, options.device)
    if codec.model.symmetric:
        raise DataError(
            f"{options.model}: has symmetric entropy; --model must be an asymmetric model, and --symmetric a "
            "symmetric one"
        )
    other = open_codec(options.symmetric, options.device) if options.symmetric else None
    if other and not other.model.symmetric:
        raise DataError(f"{options.symmetric}: has asymmetric entropy; --symmetric must be a symmetric model")
    name, image = options.picture, load(options.images, options.picture)
    view = LatentView.at(codec, image, name, **({"bpp": options.bpp} if codec.levels > 1 else {"quality": 0.0}))
    coded, density = view.coded, (codec.model.form, codec.model.tail)
    gaussian = gaussian_of(coded.parameters, *density)
    asymmetric = view.entry(f"asymmetric ({codec.model.form})", coded.y_bits)
    symmetric = view.entry("symmetric, same latent", bits(coded.symbols + coded.parameters.mu, gaussian, *density))
    models = [
        ("asymmetric", coded.parameters, density, asymmetric["channel_bits"]),
        ("symmetric", gaussian, density, symmetric["channel_bits"]),
    ]
    rows, entries = [view.row(models)], [asymmetric, symmetric]
    if other:
        view = LatentView.at(other, image, name, **({"psnr": view.psnr} if other.levels > 1 else {"quality": 0.0}))
        trained = view.entry("trained symmetric", view.coded.y_bits)
        density = other.model.form, other.model.tail
        rows.append(view.row([("symmetric", view.coded.parameters, density, trained["channel_bits"])]))
        entries.append(trained)
    save(latent_figure(rows), options, "figure2")
    write_json({"picture": name, "models": entries}, options, "figure2")
    header = ("model", "channel", "channel, bits", "y, bits", "file, bpp", "PSNR, dB")
    formats = ("", "", ",.0f", ",.0f", ".4f", ".2f")
    cells = [[format(value, form) for value, form in zip(t.values(), formats, strict=True)] for t in entries]
    print(table(header, cells))


def figures3_6(options: argparse.Namespace) -> None:
    """Pictures side by side at one rate: original, AG-VAE [MS-SSIM], AG-VAE [MSE], and other codecs.

    Each codec takes the highest rate up to the target that its steps allow. AG-VAE takes 99 to 100 % of the rate of
    the first codec. Codecs that are not installed are reported and left out."""
    from agvae.codec import open_codec
    from agvae.reporting.paper.figures import comparison_figure

    given = {"msssim": options.msssim, "mse": options.mse}
    if not any(given.values()):
        raise ConfigError("give a model with --mse, --msssim or both")
    others = _others(options.codecs, dict(options.programs))
    models = {loss: open_codec(name, options.device) for loss, name in given.items() if name}
    for loss, codec in models.items():
        if codec.levels == 1:
            raise DataError(
                f"{given[loss]}: is a fixed-rate model, so its rate cannot follow that of another codec; choose a "
                "model with gain cvr or hcvr"
            )
    targets = options.target or PAPER_TARGETS
    images = {picture: load(options.images, picture) for picture, _ in targets}
    # Checked before any codec runs, because some take minutes.
    boxes = {picture: boxes_of(options.box, picture, image) for picture, image in images.items()}
    for picture, bpp in targets:
        image = images[picture]
        coded = [(codec.name, at_target(codec, image, bpp, picture)) for codec in others]
        rate = coded[0][1].bpp if coded else bpp
        ours = [(_OURS[loss], ours_at_rate(codec, image, rate, picture)) for loss, codec in models.items()]
        results = [Result.of(name, image, decoded) for name, decoded in (*ours, *coded)]
        stem = f"figure3-6_{picture}_{bpp:.3f}bpp"
        drawing = comparison_figure(
            image, [result.decoded() for result in results], boxes[picture], f"{picture} at {rate:.3f} bpp"
        )
        save(drawing, options, stem)
        write_json({"picture": picture, "target_bpp": bpp, "codecs": [r.numbers() for r in results]}, options, stem)
        header = (picture, "bpp", "PSNR, dB", "MS-SSIM")
        print(table(header, [(r.name, f"{r.bpp:.4f}", f"{r.psnr:.2f}", f"{r.ms_ssim:.4f}") for r in results]))


def equations(options: argparse.Namespace) -> None:
    """Equations 1 and 2: the cost of CVR and HCVR, counted and by the formula, and the cost of each part of
    the model."""
    from agvae.codec import open_codec
    from agvae.evaluation.complexity import DECODER, ENCODER, GAIN_UNITS, gain_costs, part_costs, total

    codec = open_codec(options.model, options.device)
    width, height = options.size
    levels = options.levels or (codec.levels if codec.levels > 1 else PAPER_LEVELS)
    rows: list[list[str]] = []
    numbers: dict[str, Any] = {}
    for name in ("cvr", "hcvr"):
        config = {**codec.config, "gain": {"name": name, "levels": levels}}
        costs = part_costs(config, height, width)
        counted, formula, whole = total(costs, GAIN_UNITS), gain_costs(config, height, width), total(costs)
        row = [name.upper()]
        for key in ("parameters", "flops"):
            parts = [getattr(cost, key) for cost in (counted, formula, whole)]
            row += [f"{parts[0]:,}", f"{parts[1]:,}", f"{100 * parts[0] / parts[2]:.2g} %"]
        rows.append(row)
        numbers[name] = {"counted": counted._asdict(), "formula": formula._asdict(), "model": whole._asdict()}
    header = ("gain", "parameters", "equation 1", "of the model", "FLOPs", "equation 2", "of the model")
    gains = table(header, rows)

    costs, pixels = part_costs(codec.config, height, width), height * width
    sums = {"encoder": total(costs, ENCODER), "decoder": total(costs, DECODER), "whole model": total(costs)}
    rows = [
        [name, f"{cost.parameters:,}", f"{cost.flops / pixels:,.2f}", f"{cost.macs / pixels:,.2f}"]
        for name, cost in (*costs.items(), *sums.items())
    ]
    of_parts = table(("part", "parameters", "FLOPs per pixel", "MACs per pixel"), rows)
    numbers["parts"] = {name: cost._asdict() for name, cost in (*costs.items(), *sums.items())}

    text = (
        f"Gain units of {codec.name}, {levels} levels, on a picture of {width}×{height}\n\n{gains}\n\n"
        f"The parts of the model as it is (gain {codec.config['gain']['name']}, {codec.levels} levels)\n\n{of_parts}\n"
    )
    print(text, end="")
    write(text.encode(), options, "equations.md")
    write_json({"width": width, "height": height, "levels": levels, **numbers}, options, "equations")


def rd(options: argparse.Namespace) -> None:
    """RD plots in PSNR and in MS-SSIM dB of curves that evaluate.py wrote. On Kodak, the published curves are drawn
    in the background."""
    from agvae.evaluation import background_curves
    from agvae.reporting.figures import rd_figure

    paths = [
        path for given in options.results for path in (sorted(given.glob("*.json")) if given.is_dir() else [given])
    ]
    if not paths:
        raise DataError(
            f"{options.results[0]}: has no curve (*.json); give a folder RUN/results/DATASET that evaluate.py wrote"
        )
    curves = [_read_curve(path) for path in paths]
    names = Counter(curve.name for curve in curves)
    curves = [
        replace(curve, name=f"{curve.name} ({_run_of(path)})") if names[curve.name] > 1 else curve
        for curve, path in zip(curves, paths, strict=True)
    ]
    on_kodak = all(path.resolve().parent.name == "kodak" for path in paths)
    for metric, name in (("psnr-rgb", "rd_psnr"), ("ms-ssim-rgb", "rd_ms_ssim")):
        behind = [curve for curve in background_curves(metric) if curve.name not in names] if on_kodak else []
        save(rd_figure(curves, metric, behind, paths[0].resolve().parent.name), options, name)


def _read_curve(path: Path) -> "Curve":
    from agvae.evaluation import read_curve

    try:
        return read_curve(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is not a curve that evaluate.py wrote") from error


def _run_of(path: Path) -> str:
    """RUN of RUN/results/DATASET/CODEC.json."""
    return path.resolve().parents[2].name


def _others(names: Sequence[str], programs: dict[str, str]) -> list["ClassicalCodec"]:
    """The codecs that can be run. For each of the others, a line says how to get it."""
    from agvae.evaluation import available_codecs

    codecs, missing = available_codecs(names, programs)
    for reason in missing.values():
        print(f"left out: {reason}", file=sys.stderr)
    return codecs
