"""The process that exactness.py starts in each environment: it writes or reads streams.

python benchmarks/exactness_worker.py write|read FOLDER ENVIRONMENT
"""

import hashlib
import json
import sys
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from agvae.codec import model_file
from agvae.entropy.coder import CodingError, Decoder, Encoder
from agvae.entropy.tables import scale_index
from agvae.models import AGVAE
from agvae.models.coding_order import WholeFeatures
from agvae.quality import QUALITY_STEPS

QUALITIES = 5
ARITHMETICS = ("exact", "float")


class Circumstances(NamedTuple):
    """The circumstances under which a stream is written or read."""

    device: str
    threads: str
    aten: str
    dnnl: str
    layout: str
    batch: str

    @property
    def environment(self):
        """The circumstances that hold for the whole process."""
        return self[:4]


def circumstances(environment):
    """The four ways to run in an environment."""
    return [Circumstances(*environment, *rest) for rest in product(("contiguous", "channels last"), ("one", "many"))]


def float_model(file):
    """The model of a file as it was trained."""
    model = AGVAE.from_config(file.config)
    model.load_state_dict({name: weight.float() for name, weight in file.weights.items()})
    return model.eval()


def qualities(model):
    """Five qualities over the model's range, which ends past the last level, in the stream's fixed point."""
    return [round(q * QUALITY_STEPS) / QUALITY_STEPS for q in np.linspace(0, model.last_quality, QUALITIES)]


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
        """The items, divided into the lists that the networks process together."""
        return [items] if self.many else [[item] for item in items]

    def place(self, x):
        return x.to(self.device).contiguous(memory_format=self.format)

    def indices(self, parameters):
        """Scale indices of the left and the right side, (B, n) uint8."""
        return [scale_index(sigma).flatten(1).cpu().numpy() for sigma in (parameters.sigma_l, parameters.sigma_r)]

    def write(self, pixels, quality):
        """The streams of some pictures (H, W, 3) uint8, and the decoded pictures."""
        model, encoders = self.model, [Encoder(self.tables) for _ in pixels]
        y_bar = model.analyze(self.place(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255), quality)
        z = model.hyper_symbols(model.hyper_analyze(y_bar, quality))
        for encoder, symbols in zip(encoders, z.to(torch.int32).flatten(2).cpu().numpy(), strict=True):
            encoder.push_z(symbols)

        def push(cell, residuals, parameters):
            symbols = residuals.round()
            integers = symbols.to(torch.int32).flatten(1).cpu().numpy()
            for encoder, *one in zip(encoders, integers, *self.indices(parameters), strict=True):
                encoder.push_y(*one)
            return symbols

        features = model.hyper_features(self.place(z + model.prior.medians), quality)
        y_hat = model.encode(y_bar, WholeFeatures(features), push)
        return [encoder.finish() for encoder in encoders], self.paint(y_hat, quality)

    def read(self, streams, quality, height, width):
        """The picture of each stream, or None if it does not decode."""
        model, decoders, height, width = self.model, [], height // 64, width // 64
        decoders = [Decoder(self.tables, stream) for stream in streams]
        z = torch.zeros(len(streams), model.N, height, width)

        def attempt(index, read):
            # If one stream of many fails, the others continue.
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

        features = model.hyper_features(self.place(z + model.prior.medians.cpu()), quality)
        y_hat = model.decode(WholeFeatures(features), pop)
        for index in range(len(streams)):
            attempt(index, lambda decoder: decoder.finish())
        pictures = self.paint(y_hat, quality)
        return [picture if decoder else None for picture, decoder in zip(pictures, decoders, strict=True)]

    def paint(self, y_hat, quality):
        """Pictures (B, H, W, 3) uint8. In floats, they are black and tiny, because only the symbols count."""
        if not self.paints:
            return np.zeros((len(y_hat), 1, 1, 3), np.uint8)
        x_hat = self.model.synthesize(self.place(y_hat), quality).clamp(0, 1).mul(255).round().to(torch.uint8)
        return x_hat.permute(0, 2, 3, 1).cpu().numpy()


def jobs(folder, environment):
    """The jobs of a process: circumstances, arithmetic, the model's name and its worker."""
    for path in sorted(folder.glob("*.safetensors")):
        file = model_file.load(path)
        for here in circumstances(environment):
            for arithmetic in ARITHMETICS:
                yield here, arithmetic, path.stem, Worker(file, arithmetic, here)


@torch.inference_mode()
def write(folder, environment):
    """Store each stream and its picture under its hash, and an index of the streams by circumstances."""
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
    """Read every stream of all writers in each of the four ways, and store an index of the outcomes."""
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


if __name__ == "__main__":
    part, folder, environment = sys.argv[1:]
    {"write": write, "read": read}[part](Path(folder), tuple(json.loads(environment)))
