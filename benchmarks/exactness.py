"""Writes and reads streams under all combinations of circumstances, in exact arithmetic and, to compare, in floats.

    python benchmarks/exactness.py [--quick | --cuda] [--images FOLDER] [--size WxH] [--floats N] [--models MODEL …]

Each environment is a process of its own. On the CPU, environments combine

- 1 or 2 threads;
- ATEN_CPU_CAPABILITY default, avx2 and, where the processor has it, avx512;
- DNNL_MAX_CPU_ISA SSE41, AVX2 or unset.

A CUDA device, if there is one, is a further environment. In each environment, the networks run on contiguous and on
channels-last tensors, on one picture at a time and on all pictures in one batch.

First, every environment writes the streams of all pictures, models and qualities. Then every environment reads all
streams. A stream counts as read if it ends where it should, with the CRC-32 of its symbols. In exact arithmetic, a
table also gives the largest difference between a pixel of the reader and of the writer. Equal streams are read once,
and count for all environments that wrote them.

--cuda takes only the CPU with its usual settings and the CUDA device: each reads what the other writes. This takes
minutes.

In floats, the same program uses the model as it was trained instead of its exact form. That is no part of the codec: it
shows how decoding would fail without the exact form. Floats take most of the time, because each environment makes
different streams. --floats takes fewer pictures for them.

The pictures are 24 crops of photos that scikit-image ships (up to 448×256), or of the pictures of a folder. Their sides
are multiples of 64. MODEL is a context, a shipped model or a model file. A context gets random weights, whose symbols
and σ spread further than in a trained model. The results are Markdown tables on standard output.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import torch
from common import entropy_layer, random_model, table
from exactness_worker import ARITHMETICS, QUALITIES, float_model, qualities

from agvae.codec import model_file
from agvae.data.bundled_photos import sample_photos
from agvae.data.layouts import list_images
from agvae.images import load_rgb
from agvae.models.context import CONTEXTS

PHOTOS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png", "retina.jpg")
COUNT = 24
WORKER = Path(__file__).with_name("exactness_worker.py")

DIMENSIONS = {
    "device": "CPU or CUDA",
    "threads": "threads",
    "aten": "ATEN_CPU_CAPABILITY",
    "dnnl": "DNNL_MAX_CPU_ISA",
    "layout": "contiguous or channels last",
    "batch": "one or many in a batch",
}


def environments(options):
    """The environments that this machine offers, or the few that the options ask for."""
    best = "avx512" if torch.cpu._is_avx512_supported() else "avx2"
    cuda = [("cuda", "1", best, "")] if torch.cuda.is_available() else []
    if options.cuda:
        return [("cpu", "1", best, ""), *cuda]
    if options.quick:
        return [("cpu", "1", best, ""), ("cpu", "2", "avx2", "AVX2"), ("cpu", "1", "default", "SSE41"), *cuda]
    levels = ["default", "avx2", "avx512"][: 3 if best == "avx512" else 2]
    return [*product(("cpu",), "12", levels, ("SSE41", "AVX2", "")), *cuda]


def lively_model(context):
    """A random model whose σ spread further than in a trained one, and depend more on z and on the context."""
    model = random_model({"name": "depthwise", "N": 64, "M": 96, "blocks": 2}, context=context, scales=(-1.5, 1.5))
    with torch.no_grad():
        entropy_layer(model).weight *= 3
    return model


def pictures(folder, width, height):
    """The pictures, (24, height, width, 3) uint8."""
    images = [load_rgb(path) for path in (list_images(folder)[:COUNT] if folder else sample_photos(PHOTOS))]
    crops = []
    for index in range(COUNT):
        image = images[index % len(images)]
        # The crops of one photo lie along its diagonal.
        share = (index // len(images) + 0.5) / -(-COUNT // len(images))
        top, left = (int(share * (side - length)) for side, length in zip(image.shape, (height, width), strict=False))
        crops.append(image[top : top + height, left : left + width])
    return np.stack(crops)


def run(part, folder, environment):
    """Run `part`, write or read, in a process with this environment."""
    _, threads, aten, dnnl = environment
    variables = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "ATEN_CPU_CAPABILITY": aten}
    variables["OMP_WAIT_POLICY"] = "PASSIVE"  # two processes share the processor
    variables.pop("DNNL_MAX_CPU_ISA", None)
    if dnnl:
        variables["DNNL_MAX_CPU_ISA"] = dnnl
    subprocess.run([sys.executable, WORKER, part, str(folder), json.dumps(environment)], env=variables, check=True)


def compare(folder):
    """Compare all pairs of a writer and a reader. Returns three counters.

    They hold the readings by (arithmetic, model, dimensions that differ, "all" or "failed"), the largest difference of
    a pixel by (arithmetic, model), and the number of different streams by (arithmetic, model)."""
    written = [entry for path in (folder / "written").iterdir() for entry in json.loads(path.read_text())]
    results = [entry for path in (folder / "read").iterdir() for entry in json.loads(path.read_text())]
    counts, worst = Counter(), Counter()
    for reader, read_arithmetic, read_name, outcomes in results:
        for writer, arithmetic, name, _, hashes in written:
            if (arithmetic, name) != (read_arithmetic, read_name):
                continue
            differing = tuple(k for k, a, b in zip(DIMENSIONS, writer, reader, strict=True) if a != b)
            for key in hashes:
                counts[arithmetic, name, differing, "all"] += 1
                if outcomes[key] is None:
                    counts[arithmetic, name, differing, "failed"] += 1
                else:
                    worst[arithmetic, name] = max(worst[arithmetic, name], outcomes[key])
    streams = Counter()
    for arithmetic, name in {(entry[1], entry[2]) for entry in written}:
        kept = {key for entry in written if entry[1:3] == [arithmetic, name] for key in entry[4]}
        streams[arithmetic, name] = len(kept)
    return counts, worst, streams


def report(folder, names):
    counts, worst, streams = compare(folder)

    def total(arithmetic, name, kind, chosen=lambda differing: True):
        return sum(n for (a, m, d, k), n in counts.items() if (a, m, k) == (arithmetic, name, kind) and chosen(d))

    rows = []
    for arithmetic, name in product(ARITHMETICS, names):
        readings, failed = total(arithmetic, name, "all"), total(arithmetic, name, "failed")
        share = f"{failed} ({100 * failed / readings:.2f} %)" if failed else "0"
        pixel = worst[arithmetic, name] if arithmetic == "exact" else ""
        rows.append((arithmetic, name, streams[arithmetic, name], readings, share, pixel))
    head = ("arithmetic", "model", "different streams", "readings", "failed", "largest difference of a pixel")
    table(head, rows)
    rows = []
    choices = {"nothing": lambda differing: not differing}
    for dimension, words in DIMENSIONS.items():
        choices[f"{words} alone"] = lambda differing, dimension=dimension: differing == (dimension,)
    choices["two or more of these"] = lambda differing: len(differing) > 1
    for words, chosen in choices.items():
        readings = [total("float", name, "all", chosen) for name in names]
        failed = [total("float", name, "failed", chosen) for name in names]
        cells = (f"{100 * f / r:.2f} % of {r}" if r else "not run" for f, r in zip(failed, readings, strict=True))
        rows.append((words, *cells))
    table(("in floats, writer and reader differ in", *names), rows)


@torch.inference_mode()
def cost(folder, names):
    """Print the cost of fixed point: the bits of all pictures together, relative to those of the float model."""
    x = torch.from_numpy(np.load(folder / "pictures.npy")).permute(0, 3, 1, 2).float() / 255
    rows = []
    for name in names:
        file = model_file.load(folder / f"{name}.safetensors")
        model, fixed, row = float_model(file), file.build(), [name]
        for quality in qualities(model):
            bits, here = (m(x, quality).bits.sum(dtype=torch.float64).item() for m in (model, fixed))
            row.append(f"{here / bits - 1:+.4%} of {bits / x[:, 0].numel():.2f} bpp")
        rows.append(row)
    table(("model", *(f"quality {share:.0%}" for share in np.linspace(0, 1, QUALITIES))), rows)


def store(models, folder):
    """Save the models in the folder: contexts with random weights, shipped models, files. Returns their names."""
    names = []
    for model in models:
        file = model_file.from_model(lively_model(model)) if model in CONTEXTS else model_file.load(model)
        names.append(Path(model).stem)
        file.save(folder / f"{names[-1]}.safetensors")
    return names


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="three environments of the CPU instead of all")
    extent.add_argument("--cuda", action="store_true", help="only the CPU as it is and the CUDA device")
    parser.add_argument("--images", type=Path, help="a folder of pictures, none smaller than the crops")
    parser.add_argument("--size", default="192x128", metavar="WxH", help="size of the crops")
    parser.add_argument("--floats", type=int, default=COUNT, metavar="COUNT", help="number of pictures in floats")
    parser.add_argument(
        "--models", nargs="+", default=list(CONTEXTS), metavar="MODEL", help="contexts, shipped models or model files"
    )
    options = parser.parse_args()
    if options.cuda and not torch.cuda.is_available():
        parser.error("--cuda needs a CUDA device, and torch finds none")
    begin, found = time.perf_counter(), environments(options)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name in ("streams", "written", "read"):
            (folder / name).mkdir()
        (folder / "floats").write_text(str(options.floats))
        np.save(folder / "pictures.npy", pictures(options.images, *map(int, options.size.split("x"))))
        names = store(options.models, folder)
        cost(folder, names)
        for part in ("write", "read"):
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda environment: run(part, folder, environment), found))  # noqa: B023
        report(folder, names)
    print(f"CUDA: {'run' if torch.cuda.is_available() else 'not run, no device'}.", end=" ")
    print(f"{COUNT} pictures ({options.floats} in floats) of {options.size}, {QUALITIES} qualities,", end=" ")
    print(f"{4 * len(found)} circumstances,", end=" ")
    print(f"{(time.perf_counter() - begin) / 60:.1f} minutes; torch {torch.__version__}.")


if __name__ == "__main__":
    main()
