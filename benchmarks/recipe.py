"""Which recipe gives the best rate and distortion after equal time: train variants and compare them by BD-rate.

    python benchmarks/recipe.py [VARIANT …] [--seconds 3600] [--seeds 1] [--out DIR] [-- OVERRIDE …]

The first variant is the anchor; without names all run. One that the OVERRIDEs make the same as an earlier one is left
out: what is the default differs between experiments. Every variant trains with `python train.py`, its settings and
the OVERRIDEs (a model, data=folder data.root=DIR data.val_root=DIR, a trainer), for the given seconds each, over which
its learning rate falls (trainer.max_time). What the table says of a variant is its last validation, on the held-out
pictures at all levels and half-way between: mean PSNR and bpp (the model's own estimate) at three qualities, and the
BD-rate against the anchor with the same seed, as a mean over seeds and its range. Variants that are done already in DIR
are not trained again, so that an interrupted comparison goes on; another budget or other OVERRIDEs need another DIR.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

import torch
from common import ROOT, configuration, table
from variants import ends, over_seeds, parse, train

from agvae.evaluation import Curve, bd_rate

VARIANTS = {
    "default": [],
    "quantizer universal": ["model/quantizer=universal"],
    "quantizer noise": ["model/quantizer=noise"],
    "quantizer mixed": ["model/quantizer=mixed"],
    "weight power 0": ["loss.level_weight_power=0"],
    "weight power 0.25": ["loss.level_weight_power=0.25"],
    "weight power 0.75": ["loss.level_weight_power=0.75"],
    "levels stratified": ["loss.level_sampling=stratified"],
    "levels independent": ["loss.level_sampling=sample"],
    "one level a batch": ["loss.level_sampling=batch"],
    "lr half": ["optimizer.lr=${mul:0.5}"],
    "lr double": ["optimizer.lr=${mul:2}"],
    "cosine": ["scheduler=cosine"],
    "wsd": ["scheduler=wsd"],
    "multistep": ["scheduler=multistep"],
    "ema 0.99": ["ema.decay=0.99"],
    "ema 0.999": ["ema.decay=0.999"],
    "batch half": ["data.batch_size=${mul:0.5}"],
    "batch double": ["data.batch_size=${mul:2}"],
    "patch half": ["data.patch_size=${mul:0.5}"],
}


def settings_of(variant, overrides):
    """A variant's settings; ${mul:X} is X times what the configuration otherwise holds."""
    from omegaconf import OmegaConf

    settings = []
    for setting in VARIANTS[variant]:
        key, value = setting.split("=", 1)
        if value.startswith("${mul:"):
            held = OmegaConf.select(configuration([*overrides, "run_dir=."]), key)
            value = type(held)(held * float(value[6:-1]))
            setting = f"{key}={value}"
        settings.append(setting)
    return settings


def distinct(variants, overrides):
    """The variants without those that are, with the overrides, one before them."""
    from omegaconf import OmegaConf

    found = {}
    for variant in variants:
        settings = [*overrides, *settings_of(variant, overrides), "run_dir=."]
        first = found.setdefault(OmegaConf.to_yaml(configuration(settings)), variant)
        if first != variant:
            print(f"left out: {variant}, the same as {first}", file=sys.stderr)
    return list(found.values())


def result(folder, variant, seed, seconds, overrides):
    """The curve of a variant after its time, with steps; trained unless it is there already."""
    run = folder / f"{variant.replace(' ', '_')}-{seed}"
    done = run / "result.json"
    if done.exists():
        return json.loads(done.read_text())
    settings = [*overrides, *settings_of(variant, overrides), f"seed={seed}"]
    settings += [f"trainer.max_time={seconds}s", "trainer.max_steps=-1", "trainer.max_epochs=-1"]
    train(run / "run", [*settings, "trainer.val_check_interval=1000000"])  # its end is validated in any case
    steps = torch.load(run / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    with (run / "run" / "rd.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    points = [row for row in rows if row["step"] == rows[-1]["step"]]
    curve = {"steps": steps, "quality": [p["quality"] for p in points]}
    curve |= {"bpp": [p["bpp"] for p in points], "psnr-rgb": [p["psnr"] for p in points]}
    done.write_text(json.dumps(curve))
    return curve


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "recipe")
    arguments, overrides = parse(parser)
    names = arguments.variants or list(VARIANTS)
    if unknown := [name for name in names if name not in VARIANTS]:
        parser.error(f"no variant is called {unknown[0]!r}; there are {', '.join(VARIANTS)}")
    names = distinct(names, overrides)

    folder = arguments.out.resolve()
    results = {}
    for seed in range(arguments.seeds):
        for name in names:
            results[name, seed] = result(folder, name, seed, arguments.seconds, overrides)
            print(f"{name}, seed {seed}: {results[name, seed]['steps']} steps", file=sys.stderr, flush=True)
    rows = []
    for name in names:
        curves = [Curve(name, "", results[name, seed]) for seed in range(arguments.seeds)]
        anchors = [Curve("anchor", "", results[names[0], seed]) for seed in range(arguments.seeds)]
        rates = [bd_rate(anchor, curve) for anchor, curve in zip(anchors, curves, strict=True)]
        rows.append([name, results[name, 0]["steps"], *ends(curves), over_seeds(rates)])
    qualities = [f"bpp / dB, {where}" for where in ("lowest", "middle", "highest")]
    table(["variant", "steps", *qualities, f"BD-rate, {names[0]} = 0"], rows)


if __name__ == "__main__":
    main()
