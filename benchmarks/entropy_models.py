"""Compares entropy models for one trained codec, each trained anew on the codec's own latents.

    python benchmarks/entropy_models.py [QUESTION …] --images DIR [--seeds 3] [--arms ARM …] [--out DIR] [-- OVERRIDE …]
    python benchmarks/entropy_models.py [QUESTION …] --read docs/results/entropy_models.json

entropy     symmetric, half_mass and two_piece, each with tail 0 and 0.1
contexts    none, checkerboard, multiscale and quadtree, of width 96 and 192, all with tail 0.1

Without a QUESTION, the script asks both. Each arm runs `python train.py experiment=entropy_only` with its setting and
the OVERRIDEs (data=folder data.root=DIR data.val_root=DIR trainer.max_steps=N). All arms of a seed have the same crops,
steps and schedule, and share their latents in OUT/latents. The script resumes an arm that was interrupted. It neither
trains nor measures a finished arm again. Use another OUT for other OVERRIDEs.

The rate is the model's own estimate, in bits per pixel at each level. It is measured on the held-out pictures during
training, and at the end on the pictures of --images, with each symbol rounded in coding order. The distortion is not
measured. It differs a little between arms, because each arm rounds symbols about the mean that it predicts. `contexts`
also gives the parameters of the trained parts, and the seconds for compressing and decompressing the first picture. The
curves go to OUT/curves.json.
"""

import argparse
import csv
import json
import statistics
from pathlib import Path

import torch
from common import ROOT, best_time, configuration, table
from variants import parse, train

from agvae.codec import model_file, open_codec
from agvae.data import list_images
from agvae.data.datasets import centre_crop
from agvae.images import load_rgb
from agvae.models import AGVAE
from agvae.strides import STRIDE_Y

FORMS = {
    "symmetric": ["model/entropy=symmetric"],
    "half_mass": ["model/entropy=asymmetric", "model.entropy.form=half_mass"],
    "two_piece": ["model/entropy=asymmetric", "model.entropy.form=two_piece"],
}
CONTEXTS = ("checkerboard", "multiscale", "quadtree")
QUESTIONS = {  # arms and their settings; the first arm is the reference of the others
    "entropy": {
        f"{form}, tail {tail:g}": [*settings, f"model.entropy.tail={tail}"]
        for tail in (0.0, 0.1)
        for form, settings in FORMS.items()
    },
    "contexts": {
        "none": ["model/context=none", "model.entropy.tail=0.1"],
        **{
            f"{context} {width}": [f"model/context={context}", f"model.context.width={width}", "model.entropy.tail=0.1"]
            for width in (96, 192)
            for context in CONTEXTS
        },
    },
}


def trained(run, settings):
    """Train in the folder `run`, or resume there. Returns the validations, {step: bits per pixel at each level}."""
    steps = configuration([*settings, "run_dir=."]).trainer.max_steps
    last = run / "checkpoints" / "last.ckpt"
    if last.exists():
        if torch.load(last, weights_only=True, mmap=True)["global_step"] < steps:
            train(run, [*settings, f"ckpt_path={last}"])
    else:
        train(run, settings)
    found = {}
    with (run / "rd.csv").open() as file:
        for row in csv.DictReader(file):
            found.setdefault(row["step"], {})[row["quality"]] = float(row["bpp"])
    return {step: list(points.values()) for step, points in found.items()}


@torch.no_grad()
def rates(model, latents):
    """Bits per pixel of each latent at each level of the model, rounded in coding order."""
    return {
        name: [(model.code(y, level).bits.item() / (y[0, 0].numel() * STRIDE_Y**2)) for level in range(model.levels)]
        for name, y in latents.items()
    }


@torch.no_grad()
def latents_of(model, paths):
    """y = g_a(x) by file name, of pictures cropped around the centre to multiples of 64."""
    pictures = {path.name: torch.from_numpy(centre_crop(load_rgb(path), None).copy()) for path in paths}
    return {name: model.latent(x.permute(2, 0, 1)[None].float() / 255) for name, x in pictures.items()}


def costs(checkpoint, path):
    """Parameters of the trained parts, and the seconds for compressing and for decompressing a picture."""
    codec = open_codec(str(checkpoint), "cpu")
    picture = load_rgb(path)
    encoding, blob = best_time(lambda: codec.compress(picture, quality=2.0), 2)
    decoding, _ = best_time(lambda: codec.decompress(blob), 2)
    weights = model_file.read_checkpoint(checkpoint).weights
    count = sum(w.numel() for name, w in weights.items() if name.partition(".")[0] in ("h_s", "context"))
    return {"parameters": count, "encoding_time": encoding, "decoding_time": decoding}


class Arms:
    """Trains and measures arms in a folder. All arms have the same g_a, so the pictures' latents are computed once."""

    def __init__(self, folder, paths, overrides):
        self.folder, self.paths, self.overrides = folder, paths, overrides
        self.latents = {}

    def train(self, question, arm, seed):
        """Train an arm with a seed to its last step. Returns its run directory and its validations."""
        run = self.folder / question / f"{arm.replace(', ', '-').replace(' ', '_')}-{seed}"
        settings = ["experiment=entropy_only", *QUESTIONS[question][arm], f"latents.folder={self.folder / 'latents'}"]
        return run, trained(run, [*settings, *self.overrides, f"seed={seed}"])

    def result(self, question, arm, seed):
        """The result of an arm with a seed. The arm is trained and measured if it has none yet."""
        run, validations = self.train(question, arm, seed)
        done = run / "result.json"
        if done.exists():
            return json.loads(done.read_text())
        checkpoint = run / "checkpoints" / "last.ckpt"
        found = model_file.read_checkpoint(checkpoint)
        model = AGVAE.from_config(found.config).eval()
        model.load_state_dict(found.weights)
        self.latents = self.latents or latents_of(model, self.paths)
        result = {"validation": validations, "images": rates(model, self.latents)}
        if question == "contexts":
            result |= costs(checkpoint, self.paths[0])
        done.write_text(json.dumps(result))
        return result


def means(result):
    """The final mean bits per pixel at each level, for the held-out pictures and for those of --images."""
    columns = zip(*result["images"].values(), strict=True)
    return {"held-out": list(result["validation"].values())[-1], "images": [statistics.mean(c) for c in columns]}


def relative(results, first, where):
    """The change of the rate at each level from `first` with the same seed: mean and range over their common seeds."""
    seeds = [seed for seed in results if seed in first]
    pairs = [(means(results[seed])[where], means(first[seed])[where]) for seed in seeds]
    cells = []
    for level in range(len(pairs[0][0])):
        percents = [100 * (ours[level] / theirs[level] - 1) for ours, theirs in pairs]
        spread = f" ({min(percents):+.2f} to {max(percents):+.2f})" if len(percents) > 1 else ""
        cells.append(f"{statistics.mean(percents):+.2f} %{spread}")
    return cells


def show(question, curves):
    """Print the tables of a question from {arm: {seed: result}}."""
    first = next(iter(curves.values()))
    count = len(means(next(iter(first.values())))["images"])
    head = ["arm", "seeds", *(f"level {level}" for level in range(count))]
    for where in ("held-out", "images"):
        base = [statistics.mean(values) for values in zip(*(means(r)[where] for r in first.values()), strict=True)]
        rows = [[f"{next(iter(curves))}, bpp", len(first), *(f"{value:.4f}" for value in base)]]
        rows += [[arm, len({*results} & {*first}), *relative(results, first, where)] for arm, results in curves.items()]
        table([f"{question}, {where}", *head[1:]], rows)
    steps = list(next(iter(first.values()))["validation"])
    rows = []
    for arm, results in curves.items():
        of_steps = zip(*(r["validation"].values() for r in results.values()), strict=True)
        rows.append([arm, *(f"{statistics.mean(statistics.mean(levels) for levels in many):.4f}" for many in of_steps)])
    table([f"{question}, held-out bpp, mean over levels, by step", *steps], rows)
    if question == "contexts":
        rows = []
        for arm, results in curves.items():
            some = next(iter(results.values()))
            seconds = [min(r[key] for r in results.values()) for key in ("encoding_time", "decoding_time")]
            rows.append([arm, f"{some['parameters']:,}", *(f"{value:.2f}" for value in seconds)])
        table(["context", "parameters", "compress, s", "decompress, s"], rows)


def chosen_arms(parser, question, names):
    """The arms of a question that are asked for, in the order of `names`; all if there are none."""
    if unknown := [name for name in names or () if name not in QUESTIONS[question]]:
        parser.error(f"ARM must be one of {'; '.join(QUESTIONS[question])}, not {unknown[0]}")
    return names or list(QUESTIONS[question])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=", ".join(QUESTIONS))
    parser.add_argument("--images", type=Path, help="folder of the pictures to measure at the end")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="only these; the others are compared with the first")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "entropy_models")
    parser.add_argument("--read", type=Path, help="curves of an earlier run; nothing is trained")
    arguments, overrides = parse(parser)
    questions = arguments.questions or list(QUESTIONS)
    if unknown := [name for name in questions if name not in QUESTIONS]:
        parser.error(f"QUESTION must be one of {', '.join(QUESTIONS)}, not {unknown[0]}")
    chosen = {question: chosen_arms(parser, question, arguments.arms) for question in questions}
    if (arguments.images is None) == (arguments.read is None):
        parser.error("give either --images DIR, to train and measure, or --read FILE, to show curves")

    if arguments.read:
        curves = json.loads(arguments.read.read_text())
    else:
        folder = arguments.out.resolve()
        arms = Arms(folder, list_images(arguments.images), overrides)
        every = [(question, arm, seed) for seed in range(arguments.seeds) for question in questions
                 for arm in chosen[question]]  # fmt: skip
        for one in every:
            arms.train(*one)
        curves = {question: {} for question in questions}
        for question, arm, seed in every:
            curves[question].setdefault(arm, {})[str(seed)] = arms.result(question, arm, seed)
            (folder / "curves.json").write_text(json.dumps(curves))
    for question in questions:
        if found := {arm: curves[question][arm] for arm in chosen[question] if arm in curves.get(question, {})}:
            show(question, found)


if __name__ == "__main__":
    main()
