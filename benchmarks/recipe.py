"""Compares training recipes after equal time: trains each variant and compares them by BD-rate.

    python benchmarks/recipe.py [VARIANT …] [--seconds 3600] [--seeds 1] [--out DIR] [-- OVERRIDE …]

Without a VARIANT, all run. The first one is the anchor. Defaults differ between experiments, so the OVERRIDEs may make
a variant equal to an earlier one. It is then left out. Every variant trains with `python train.py`, its settings and
the OVERRIDEs (a model, data=folder data.root=DIR data.val_root=DIR, a trainer). Each trains for the given seconds, over
which its learning rate falls (trainer.max_time).

The table shows the last validation of each variant, on the held-out pictures at all levels and half-way between them.
It has mean PSNR and bpp (the model's own estimate) at three qualities, and the BD-rate against the anchor with the same
seed, as the mean over seeds and the range. A variant that DIR already holds is not trained again, so you can resume an
interrupted comparison. Use another DIR for another budget or other OVERRIDEs.
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
    """The settings of a variant. ${mul:X} becomes X times the value that the configuration has without the variant."""
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
    """The variants, without those that the overrides make equal to an earlier one."""
    from omegaconf import OmegaConf

    found = {}
    for variant in variants:
        settings = [*overrides, *settings_of(variant, overrides), "run_dir=."]
        first = found.setdefault(OmegaConf.to_yaml(configuration(settings)), variant)
        if first != variant:
            print(f"left out: {variant}, the same as {first}", file=sys.stderr)
    return list(found.values())


def result(folder, variant, seed, seconds, overrides):
    """The curve of a variant after its time, and its steps. The variant is trained if it has no result yet."""
    run = folder / f"{variant.replace(' ', '_')}-{seed}"
    done = run / "result.json"
    if done.exists():
        return json.loads(done.read_text())
    settings = [*overrides, *settings_of(variant, overrides), f"seed={seed}"]
    settings += [f"trainer.max_time={seconds}s", "trainer.max_steps=-1", "trainer.max_epochs=-1"]
    train(run / "run", [*settings, "trainer.val_check_interval=1000000"])  # the end of a run is always validated
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
        parser.error(f"VARIANT must be one of {', '.join(VARIANTS)}, not {unknown[0]}")
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
