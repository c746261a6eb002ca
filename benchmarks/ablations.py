"""Measures each part of AG-VAE: trains a model for each answer, codes pictures with it, and compares RD curves.

    python benchmarks/ablations.py [QUESTION …] --images DIR [--seeds 3] [--out DIR] [-- OVERRIDE …]
    python benchmarks/ablations.py [QUESTION …] --read docs/results/ablations.json --plots docs/results

entropy             symmetric, half_mass and two_piece
gain_units          HCVR, CVR and a fixed-rate model for each λ
gain_vectors        n = 2, 3, 4, 6 and 8 gain vectors
level_sampling      a level for each picture of a batch, or one for all
contexts            none, checkerboard and quadtree
specialised         agvae-small-mse trained further for all its levels, and for each of them alone

Without a QUESTION, the script asks all of them. Each model trains with `python train.py experiment=ablation`, the
setting of its answer (as in conf/sweep) and the OVERRIDEs (data=folder data.root=DIR data.val_root=DIR). The models of
`specialised` continue from the shipped model with experiment=small.

The codec then compresses and decompresses the pictures of --images, at the model's levels and at qualities between
them. bpp is 8 × the bytes of the file over its pixels, and PSNR is that of the 8-bit picture. The curves go to
OUT/curves.json. A model that OUT already holds is neither trained nor measured again, so you can resume an interrupted
comparison. Use another OUT for another budget or other OVERRIDEs.

The tables come from these curves, or from those of --read:

- BD-rates against the default model with the same seed, as the mean over seeds and the range;
- PSNR against the fixed-rate models at their rates;
- the distance of qualities between levels from the curve through the levels.

With --plots DIR, the script also draws rd.png and differences.png. The fixed-rate models and the answers of
gain_vectors, contexts and specialised have one seed, all others have --seeds.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from common import ROOT, table
from variants import ends, over_seeds, parse, train

from agvae.evaluation import Curve, bd_rate
from agvae.evaluation.rd import loss_between_levels, pchip

FIXED = [f"fixed_{level}" for level in range(6)]
ONLY = {f"only_{level}": level for level in range(6)}
ABLATION = ["experiment=ablation"]
GO_ON = ["experiment=small", "init_from=agvae-small-mse", "trainer.max_steps=600", "trainer.val_check_interval=600"]
GO_ON += ["optimizer.lr=3.0e-4", "scheduler.warmup_steps=50", "scheduler.decay_share=1", "ema.decay=0.99"]
SETTINGS = {
    "default": [],
    "symmetric": ["sweep=entropy", "entropy=symmetric"],
    "two_piece": ["sweep=entropy", "entropy=two_piece"],
    "cvr": ["sweep=gain_units", "gain_units=cvr"],
    **{name: ["sweep=gain_units", f"gain_units={name}"] for name in FIXED},
    **{f"n{levels}": ["sweep=gain_vectors", f"gain_vectors=n{levels}"] for levels in (2, 3, 4, 8)},
    "batch": ["loss.level_sampling=batch"],
    "none": ["model/context=none"],
    "quadtree": ["model/context=quadtree"],
}
VARIANTS = {
    **{name: [*ABLATION, *settings] for name, settings in SETTINGS.items()},
    "shared": GO_ON,
    **{name: [*GO_ON, f"loss.levels=[{level}]"] for name, level in ONLY.items()},
}
QUESTIONS = {  # the answers of each question, and their names in tables and plots
    "entropy": {"default": "half_mass", "symmetric": "symmetric", "two_piece": "two_piece"},
    "gain_units": {"default": "HCVR", "cvr": "CVR", **{name: name for name in FIXED}},
    "gain_vectors": {"n2": "n = 2", "n3": "n = 3", "n4": "n = 4", "default": "n = 6", "n8": "n = 8"},
    "level_sampling": {"default": "a level for each picture", "batch": "one level a batch"},
    "contexts": {"none": "none", "default": "checkerboard", "quadtree": "quadtree"},
    "specialised": {"shared": "all levels", **{name: name for name in ONLY}},
}
ONE_SEED = {*FIXED, *QUESTIONS["gain_vectors"], *QUESTIONS["contexts"], *QUESTIONS["specialised"]} - {"default"}
STEPS_BETWEEN = 10  # a measured curve divides the range of quality into at least this many parts


def qualities(levels):
    """The qualities at which a model is measured: its levels, and points between them.

    Each gap between levels has at least one point, and the whole range at least STEPS_BETWEEN parts."""
    parts = max(2, -(-STEPS_BETWEEN // (levels - 1))) if levels > 1 else 1
    return [step / parts for step in range(parts * (levels - 1) + 1)]


def measure(codec, paths, at):
    """The codec's mean rate (bpp) and PSNR (dB) over the pictures at the qualities `at`.

    Both are measured on real files and the pictures that they decode to."""
    from PIL import Image

    from agvae.images import load_rgb
    from agvae.metrics import bits_per_pixel, psnr

    results = []
    for path in paths:
        image = Image.fromarray(load_rgb(path))
        latent = codec.analyze(image)
        files = [codec.compress(latent, quality=quality, lossless=False) for quality in at]
        rates = [bits_per_pixel(len(file), *image.size) for file in files]
        results.append([rates, [psnr(image, codec.decompress(file)) for file in files]])
    bpp, decibels = np.mean(results, axis=0).tolist()
    return {"quality": at, "bpp": bpp, "psnr-rgb": decibels}


def trained(run, settings):
    """Train in the folder `run`, unless it holds a trained model."""
    if not (done := run / "trained.json").exists():
        done.write_text(json.dumps({"processor_seconds": round(train(run, settings))}))


def measured(run, paths, only):
    """A model's curve over the pictures, and the processor time of its training.

    An existing curve is read, not measured again. `only` is the one level that it was trained for, or None."""
    from agvae.codec import Codec

    if not (done := run / "curve.json").exists():
        codec = Codec.from_checkpoint(run / "checkpoints" / "last.ckpt")
        at = qualities(codec.levels) if only is None else [float(only)]
        done.write_text(json.dumps(measure(codec, paths, at)))
    return json.loads((run / "trained.json").read_text()) | json.loads(done.read_text())


def asked(questions, seeds):
    """The models that answer the questions, as (variant, seed) in the order of training."""
    variants = dict.fromkeys(variant for question in questions for variant in QUESTIONS[question])
    if {*variants} & {*SETTINGS}:
        variants = dict.fromkeys(["default", *variants])
    return [(name, seed) for name in variants for seed in range(1 if name in ONE_SEED else seeds)]


def curves_of(results):
    """Curves by variant and seed."""
    curves = {}
    for (variant, seed), found in results.items():
        curves.setdefault(variant, {})[seed] = Curve(f"{variant}, seed {seed}", "", found)
    return curves


def fixed_curve(curves, names):
    """One curve through the points of the fixed-rate models."""
    points = [next(iter(curves[name].values())).results for name in names]
    return Curve("fixed-rate models", "", {key: [p[key][0] for p in points] for key in ("bpp", "psnr-rgb")})


def psnr_at(curve, rates):
    """PSNR of a curve at other rates, by PCHIP over log rate. It is NaN outside the range of the curve."""
    return pchip(np.log(curve.results["bpp"]), np.array(curve.results["psnr-rgb"]), np.log(rates))


def against_default(labels, curves):
    """Rows with the BD-rate of each answer against the default with the same seed.

    The row of the default is a mean over the seeds that the other answers have."""
    anchors = curves["default"]
    answers = [name for name in labels if name in curves and name not in FIXED]
    shared = set().union(*(curves[name] for name in answers if name != "default"))
    for name in answers:
        found = {seed: curve for seed, curve in curves[name].items() if seed in shared}
        rates = [bd_rate(anchors[seed], curve) for seed, curve in found.items()]
        compared = "0" if name == "default" else over_seeds(rates)
        yield labels[name], len(found), *ends(list(found.values())), compared


def range_over_seeds(curves):
    """BD-rates of the default's other seeds against its first: the effect of chance alone."""
    first, *others = curves["default"].values()
    return [bd_rate(first, other) for other in others]


def decibels(values, digits=2):
    """Differences in dB as text: their mean and range."""
    text = f"{np.mean(values):+.{digits}f}"
    return f"{text} ({min(values):+.{digits}f} to {max(values):+.{digits}f})" if len(values) > 1 else text


def against_fixed(names, gained_names, curves):
    """Rows with the PSNR of models with gain units minus that of the fixed-rate models, at equal rate.

    The first rows are at the rate of each fixed-rate model. The next row is at the lowest rate of the models with gain
    units, where the curve of the fixed-rate models is interpolated. The last row has BD-rates against that curve."""
    fixed = fixed_curve(curves, names)
    seeds = sorted(set.intersection(*(set(curves[name]) for name in gained_names)))
    gained = [[curves[name][seed] for seed in seeds] for name in gained_names]

    def compared(differences):
        within = [float(difference) for difference in differences if np.isfinite(difference)]
        return decibels(within) if within else "outside its rates"

    rates, own = fixed.results["bpp"], np.array(fixed.results["psnr-rgb"])
    above = [[psnr_at(curve, rates) - own for curve in found] for found in gained]
    for at, name in enumerate(names):
        row = (compared(difference[at] for difference in found) for found in above)
        yield name, f"{rates[at]:.3f} / {own[at]:.2f}", *row
    lowest = ([(curve.results["bpp"][0], curve.results["psnr-rgb"][0]) for curve in found] for found in gained)
    yield "lowest rate", "", *(compared(db - psnr_at(fixed, [rate])[0] for rate, db in points) for points in lowest)
    yield "BD-rate", "0", *(over_seeds([bd_rate(fixed, curve) for curve in found]) for found in gained)


def vectors(labels, curves):
    """Rows with the PSNR of qualities between levels minus that of the curve through the levels, for each n."""
    for name, label in labels.items():
        for curve in list(curves.get(name, {}).values())[:1]:
            _, loss = loss_between_levels(curve)
            off = -loss[np.isfinite(loss)]
            yield label, f"{np.mean(off):+.3f}", f"{min(off):+.3f}", f"{max(off):+.3f}"


def report(questions, curves):
    """Print the tables."""
    for question in questions:
        print(f"### {question}\n")
        if question == "specialised":
            heads = ["trained for one level", "bpp / dB", "all levels at this rate, dB"]
            table(heads, against_fixed(list(ONLY), ["shared"], curves))
            continue
        columns = ["bpp / dB, lowest", "middle", "highest", "BD-rate"]
        table([question, "seeds", *columns], against_default(QUESTIONS[question], curves))
        if question == "gain_units":
            table(
                ["fixed-rate model", "bpp / dB", "HCVR at this rate, dB", "CVR at this rate, dB"],
                against_fixed(FIXED, ["default", "cvr"], curves),
            )
        if question == "gain_vectors":
            heads = ["mean, dB", "lowest", "highest"]
            table(["between levels", *heads], vectors(QUESTIONS[question], curves))
    if others := range_over_seeds(curves) if "default" in curves else []:
        print(f"The default's other seeds against its first: {over_seeds(others)}.")


def differences(anchors, found, rates):
    """PSNR of curves minus that of their anchors at the given rates, (seeds, rates).

    The anchor has the same seed, or the lowest seed if there is no such anchor."""
    pairs = [(curve, anchors.get(seed, anchors[min(anchors)])) for seed, curve in found.items()]
    return np.array([psnr_at(curve, rates) - psnr_at(anchor, rates) for curve, anchor in pairs])


def plots(questions, curves, folder):
    """Draw rd.png and differences.png.

    rd.png has models with gain units and the fixed-rate ones. differences.png has the PSNR of each answer against the
    default, by question."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    folder.mkdir(parents=True, exist_ok=True)
    questions = [question for question in questions if "default" in QUESTIONS[question]]

    def dress(axes, title, label):
        axes.set_title(title, loc="left", fontsize=11)
        axes.set(xlabel="bits per pixel, whole file", ylabel=label)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(color="#e3e6ea", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)

    if "gain_units" in questions:
        figure = Figure(figsize=(7, 4.6), dpi=110, layout="constrained")
        axes = figure.add_subplot()
        for name in ("default", "cvr"):
            results = curves[name][0].results
            axes.plot(results["bpp"], results["psnr-rgb"], label=QUESTIONS["gain_units"][name] + ", one model")
        fixed = fixed_curve(curves, FIXED).results
        axes.plot(fixed["bpp"], fixed["psnr-rgb"], "k.--", linewidth=1, markersize=9, label="fixed-rate, a model each")
        dress(axes, "One model against its fixed-rate models, seed 0", "PSNR, RGB (dB)")
        figure.savefig(folder / "rd.png")

    figure = Figure(figsize=(10, 3.6 * -(-len(questions) // 2)), dpi=90, layout="constrained")
    panels = figure.subplots(-(-len(questions) // 2), 2, sharey=True, squeeze=False).flatten()
    results = curves["default"][0].results
    rates = np.geomspace(results["bpp"][0], results["bpp"][-1], 200)
    for panel, question in zip(panels, questions, strict=False):
        panel.axhline(0, color="black", linewidth=1, label=QUESTIONS[question]["default"])
        for name, label in QUESTIONS[question].items():
            if name in curves and name not in FIXED and name != "default":
                found = differences(curves["default"], curves[name], rates)
                (line,) = panel.plot(rates, found.mean(axis=0), label=label)
                panel.fill_between(rates, found.min(axis=0), found.max(axis=0), color=line.get_color(), alpha=0.2)
        dress(panel, question, "PSNR against the default (dB)")
    for panel in panels[len(questions) :]:
        panel.remove()
    figure.savefig(folder / "differences.png")


def rounded(found):
    """A result whose lists are rounded to five digits after the point."""
    return {key: [round(v, 5) for v in value] if isinstance(value, list) else value for key, value in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=", ".join(QUESTIONS))
    parser.add_argument("--images", type=Path, help="folder of PNG pictures to code, none of them used in training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "ablations")
    parser.add_argument("--read", type=Path, metavar="JSON", help="curves of an earlier run; nothing is trained")
    parser.add_argument("--plots", type=Path, metavar="DIR")
    arguments, overrides = parse(parser)
    questions = arguments.questions or list(QUESTIONS)
    if unknown := [name for name in questions if name not in QUESTIONS]:
        parser.error(f"QUESTION must be one of {', '.join(QUESTIONS)}, not {unknown[0]}")

    if arguments.read:
        held = json.loads(arguments.read.read_text())
        results = {(one["variant"], one["seed"]): one for one in held}
    else:
        if not arguments.images or not (paths := sorted(arguments.images.glob("*.png"))):
            parser.error("--images must be a folder with PNG files")
        folder, models = arguments.out.resolve(), asked(questions, arguments.seeds)
        for at, (variant, seed) in enumerate(models, 1):
            print(f"training {variant}, seed {seed}: {at} of {len(models)}", file=sys.stderr, flush=True)
            trained(folder / f"{variant}-{seed}", [*VARIANTS[variant], *overrides, f"seed={seed}"])
        results = {}
        for at, (variant, seed) in enumerate(models, 1):
            print(f"measuring {variant}, seed {seed}: {at} of {len(models)}", file=sys.stderr, flush=True)
            found = rounded(measured(folder / f"{variant}-{seed}", paths, ONLY.get(variant)))
            results[variant, seed] = {"variant": variant, "seed": seed, **found}
        lines = ",\n".join(json.dumps(one) for one in results.values())
        (folder / "curves.json").write_text(f"[\n{lines}\n]\n")
    curves = curves_of(results)
    questions = [question for question in questions if {*QUESTIONS[question]} & {*curves} - {"default"}]
    report(questions, curves)
    if arguments.plots:
        plots(questions, curves, arguments.plots)


if __name__ == "__main__":
    main()
