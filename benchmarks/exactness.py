"""Streams written and read under every combination of circumstances: in exact arithmetic, and beside it in floats.

    python benchmarks/exactness.py [--quick] [--images FOLDER] [--size 192x128] [--floats 24] [--models FILE …]

Each environment is a process of its own: 1 or 2 threads, ATEN_CPU_CAPABILITY default, avx2 or avx512,
DNNL_MAX_CPU_ISA SSE41, AVX2 or unset; and a CUDA device where there is one. In each, the networks run on contiguous
and on channels-last tensors, on one picture at a time and on all in one batch. First every environment writes the
streams of all pictures, models and qualities; then every environment reads what all have written. A stream counts as
read if it ends as it should with the CRC-32 of its symbols, and, in exact arithmetic, if the picture is within one
8-bit level of its writer's. Streams of equal bytes are read once, and count for all who wrote them.

Floats: the same program with the model as it was trained in the place of its exact form. That is what decoding would
be without the exact form, no part of the codec. They take most of the time, for each environment makes streams of its
own; --floats takes fewer of the pictures for them.

Pictures: 24 crops of photos that scikit-image ships (up to 448×256), or of the pictures of a folder; sides are
multiples of 64. Models: one for each context, with random weights that make symbols and σ spread as trained ones do and
further, or files given. The results are Markdown tables on standard output.
"""

import argparse
import hashlib
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
from typing import NamedTuple

import numpy as np
import torch
from common import entropy_layer, random_model, table

from agvae.codec import model_file
from agvae.data.bundled_photos import sample_photos
from agvae.data.layouts import list_images
from agvae.entropy.coder import CodingError, Decoder, Encoder
from agvae.entropy.tables import scale_index
from agvae.images import load_rgb
from agvae.models import AGVAE
from agvae.models.context import CONTEXTS
from agvae.quality import QUALITY_STEPS

PHOTOS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png", "retina.jpg")
COUNT = 24
QUALITIES = 5
ARITHMETICS = ("exact", "float")


class Circumstances(NamedTuple):
    """Under which a stream is written or read."""

    device: str
    threads: str
    aten: str
    dnnl: str
    layout: str
    batch: str

    @property
    def environment(self):
        """What is a matter of the whole process."""
        return self[:4]


DIMENSIONS = {
    "device": "CPU or CUDA",
    "threads": "threads",
    "aten": "ATEN_CPU_CAPABILITY",
    "dnnl": "DNNL_MAX_CPU_ISA",
    "layout": "contiguous or channels last",
    "batch": "one or many in a batch",
}


def environments(quick):
    """All that this machine can have."""
    if quick:
        found = [("cpu", "1", "avx512", ""), ("cpu", "2", "avx2", "AVX2"), ("cpu", "1", "default", "SSE41")]
    else:
        found = list(product(("cpu",), "12", ("default", "avx2", "avx512"), ("SSE41", "AVX2", "")))
    return found + ([("cuda", "1", "avx512", "")] if torch.cuda.is_available() else [])


def circumstances(environment):
    """The four ways to run in an environment."""
    return [Circumstances(*environment, *rest) for rest in product(("contiguous", "channels last"), ("one", "many"))]


def lively_model(context):
    """A random model whose σ spread further than a trained one's, and depend more on z and on the context."""
    model = random_model({"name": "depthwise", "N": 64, "M": 96, "blocks": 2}, context=context, scales=(-1.5, 1.5))
    with torch.no_grad():
        entropy_layer(model).weight *= 3
    return model


def float_model(file):
    """The model of a file as it was trained."""
    model = AGVAE.from_config(file.config)
    model.load_state_dict({name: weight.float() for name, weight in file.weights.items()})
    return model.eval()


def pictures(folder, width, height):
    """(24, height, width, 3) uint8."""
    images = [load_rgb(path) for path in (list_images(folder)[:COUNT] if folder else sample_photos(PHOTOS))]
    crops = []
    for index in range(COUNT):
        image = images[index % len(images)]
        # Of one photo, crops along its diagonal.
        share = (index // len(images) + 0.5) / -(-COUNT // len(images))
        top, left = (int(share * (side - length)) for side, length in zip(image.shape, (height, width), strict=False))
        crops.append(image[top : top + height, left : left + width])
    return np.stack(crops)


def qualities(model):
    """Five over the model's range, in the stream's fixed point."""
    return [round(q * QUALITY_STEPS) / QUALITY_STEPS for q in np.linspace(0, model.levels - 1, QUALITIES)]


class Worker:
    """Writes and reads streams under one set of circumstances."""

    def __init__(self, file, arithmetic, here):
        self.tables = file.tables
        self.model = file.build() if arithmetic == "exact" else float_model(file)
        self.paints = arithmetic == "exact"
        self.device, self.many = here.device, here.batch == "many"
        self.format = torch.channels_last if here.layout == "channels last" else torch.contiguous_format
        self.model.to(self.device, memory_format=self.format)

    def batches(self, items):
        """The items in lists that are worked on together."""
        return [items] if self.many else [[item] for item in items]

    def place(self, x):
        return x.to(self.device).contiguous(memory_format=self.format)

    def indices(self, parameters):
        """Scale indices of either side, (B, n) uint8."""
        return [scale_index(sigma).flatten(1).cpu().numpy() for sigma in (parameters.sigma_l, parameters.sigma_r)]

    def write(self, pixels, quality):
        """Streams and pictures of a list of (H, W, 3) uint8."""
        model, encoders = self.model, [Encoder(self.tables) for _ in pixels]
        y_bar = model.analyze(self.place(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255), quality)
        z = model.hyper_symbols(model.hyper_analyze(y_bar, quality))
        for encoder, symbols in zip(encoders, z.to(torch.int32).flatten(2).cpu().numpy(), strict=True):
            encoder.push_z(symbols)

        def push(cell, symbols, parameters):
            symbols = symbols.to(torch.int32).flatten(1).cpu().numpy()
            for encoder, *one in zip(encoders, symbols, *self.indices(parameters), strict=True):
                encoder.push_y(*one)

        psi = model.hyper_synthesize(self.place(z + model.prior.medians), quality)
        y_hat = model.encode(y_bar, psi, push)
        return [encoder.finish() for encoder in encoders], self.paint(y_hat, quality)

    def read(self, streams, quality, height, width):
        """For each stream its picture, or None if it does not decode."""
        model, decoders, height, width = self.model, [], height // 64, width // 64
        decoders = [Decoder(self.tables, stream) for stream in streams]
        z = torch.zeros(len(streams), model.N, height, width)

        def attempt(index, read):
            # Where one of many fails, the others go on.
            if decoders[index] is None:
                return None
            try:
                return read(decoders[index])
            except CodingError:
                decoders[index] = None

        for index, symbols in enumerate(z):
            found = attempt(index, lambda decoder: decoder.pop_z(height * width))
            if found is not None:
                symbols.copy_(torch.from_numpy(found).view_as(symbols))

        def pop(cell, parameters):
            symbols = torch.zeros(parameters.mu.shape)
            for index, (left, right) in enumerate(zip(*self.indices(parameters), strict=True)):
                found = attempt(index, lambda decoder: decoder.pop_y(left, right))  # noqa: B023, called at once
                if found is not None:
                    symbols[index] = torch.from_numpy(found).view(symbols.shape[1:])
            return symbols.to(self.device)

        y_hat = model.decode(model.hyper_synthesize(self.place(z + model.prior.medians.cpu()), quality), pop)
        for index in range(len(streams)):
            attempt(index, lambda decoder: decoder.finish())
        pictures = self.paint(y_hat, quality)
        return [picture if decoder else None for picture, decoder in zip(pictures, decoders, strict=True)]

    def paint(self, y_hat, quality):
        """Pictures (B, H, W, 3) uint8; in floats it is enough to know whether the symbols come back."""
        if not self.paints:
            return np.zeros((len(y_hat), 1, 1, 3), np.uint8)
        x_hat = self.model.synthesize(self.place(y_hat), quality).clamp(0, 1).mul(255).round().to(torch.uint8)
        return x_hat.permute(0, 2, 3, 1).cpu().numpy()


def jobs(folder, environment):
    """(circumstances, arithmetic, model's name, its worker) for all that a process does."""
    for path in sorted(folder.glob("*.safetensors")):
        file = model_file.load(path)
        for here in circumstances(environment):
            for arithmetic in ARITHMETICS:
                yield here, arithmetic, path.stem, Worker(file, arithmetic, here)


@torch.inference_mode()
def write(folder, environment):
    """Store each stream, and its picture, under its hash; write an index: which circumstances made which streams."""
    pixels, index = np.load(folder / "pictures.npy"), []
    for here, arithmetic, name, worker in jobs(folder, environment):
        for quality in qualities(worker.model):
            hashes = []
            taken = pixels if arithmetic == "exact" else pixels[: int((folder / "floats").read_text())]
            for batch in worker.batches(list(taken)):
                for stream, picture in zip(*worker.write(batch, quality), strict=True):
                    key = hashlib.sha256(f"{name} {arithmetic} {quality}".encode() + stream).hexdigest()[:24]
                    target = folder / "streams" / key
                    if not target.exists():
                        np.save(target.with_suffix(".npy"), picture)
                        target.write_bytes(stream)
                    hashes.append(key)
            index.append((here, arithmetic, name, quality, hashes))
    save(folder / "written", environment, index)


@torch.inference_mode()
def read(folder, environment):
    """Read each stream that anybody wrote once in each of the four ways; write an index of what came out."""
    wanted, (_, height, width, _) = {}, np.load(folder / "pictures.npy", mmap_mode="r").shape
    for path in (folder / "written").iterdir():
        for _, arithmetic, name, quality, hashes in json.loads(path.read_text()):
            wanted.setdefault((arithmetic, name, quality), set()).update(hashes)
    index = []
    for here, arithmetic, name, worker in jobs(folder, environment):
        outcomes = {}
        for quality in qualities(worker.model):
            for keys in worker.batches(sorted(wanted[arithmetic, name, quality])):
                paths = [folder / "streams" / key for key in keys]
                found = worker.read([path.read_bytes() for path in paths], quality, height, width)
                for key, path, picture in zip(keys, paths, found, strict=True):
                    if picture is not None:
                        picture = int(np.abs(picture.astype(int) - np.load(path.with_suffix(".npy"))).max())
                    outcomes[key] = picture
        index.append((here, arithmetic, name, outcomes))
    save(folder / "read", environment, index)


def save(folder, environment, index):
    (folder / ("-".join(environment) + ".json")).write_text(json.dumps(index))


def run(part, folder, environment):
    """`part` in a process of its own."""
    _, threads, aten, dnnl = environment
    variables = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "ATEN_CPU_CAPABILITY": aten}
    variables["OMP_WAIT_POLICY"] = "PASSIVE"  # two processes share the processor
    variables.pop("DNNL_MAX_CPU_ISA", None)
    if dnnl:
        variables["DNNL_MAX_CPU_ISA"] = dnnl
    subprocess.run(
        [sys.executable, __file__, "--worker", part, str(folder), json.dumps(environment)], env=variables, check=True
    )


def compare(folder):
    """For every pair of circumstances: (arithmetic, model, dimensions that differ) → counts."""
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
    """What fixed point costs in bits: all pictures' together, against the float model's."""
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three environments in the place of eighteen")
    parser.add_argument("--images", type=Path, help="a folder of pictures, none smaller than the crops")
    parser.add_argument("--size", default="192x128", metavar="WxH", help="of the crops")
    parser.add_argument("--floats", type=int, default=COUNT, metavar="COUNT", help="of the pictures, for floats")
    parser.add_argument("--models", type=Path, nargs="+", help="model files in the place of random weights")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        part, folder, environment = options.worker
        {"write": write, "read": read}[part](Path(folder), tuple(json.loads(environment)))
        return
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name in ("streams", "written", "read"):
            (folder / name).mkdir()
        (folder / "floats").write_text(str(options.floats))
        np.save(folder / "pictures.npy", pictures(options.images, *map(int, options.size.split("x"))))
        if options.models:
            names = [path.stem for path in options.models]
            for path in options.models:
                (folder / path.name).write_bytes(path.read_bytes())
        else:
            names = list(CONTEXTS)
            for name in names:
                model_file.from_model(lively_model(name)).save(folder / f"{name}.safetensors")
        cost(folder, names)
        for part in ("write", "read"):
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda environment: run(part, folder, environment), environments(options.quick)))  # noqa: B023
        report(folder, names)
    print(f"CUDA: {'run' if torch.cuda.is_available() else 'not run, no device'}.", end=" ")
    circumstances = 4 * len(environments(options.quick))
    print(f"{COUNT} pictures ({options.floats} in floats) of {options.size}, {QUALITIES} qualities,", end=" ")
    print(f"{circumstances} circumstances,", end=" ")
    print(f"{(time.perf_counter() - begin) / 60:.1f} minutes; torch {torch.__version__}.")


if __name__ == "__main__":
    main()
