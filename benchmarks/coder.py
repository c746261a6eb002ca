"""Compares entropy coders on the latent of a 768×512 picture: constriction, CompressAI's ans and ours.

    python benchmarks/coder.py [--repeats 6]

y has 192 × 32 × 48 = 294,912 symbols. Without context, they are coded in one pass. In the multiscale context, position
(i, j) is coded in pass j + 4i. That makes 48 + 4 · 31 = 172 passes of at most 12 positions × 192 channels, and each
pass waits for the one before.

All coders get the same symbols and masses, in the formulation that suits each best. Ours and constriction use the 20
bits of agvae.entropy.tables, CompressAI the 16 bits of its coder.

- `symmetric`: one σ determines the whole alphabet. The libraries code a symbol in one step, with 128 alphabets.
- `half_mass`: a pair (σ_l, σ_r) determines it. All coders code a class (zero, neg, pos) and then a magnitude, as
  agvae.entropy.tables explains.

constriction gets the classes with a matrix of probabilities, one row per symbol. It gets everything else grouped by
table, with one call per table and pass. Its own Gaussian, which has no asymmetric form, is measured as well. CompressAI
gets the tables that a pass uses as Python lists, as its interface demands.

The script prints a Markdown table. Times are the shortest of --repeats runs. The overhead is the length of the stream
minus the information content under our integer tables. Our streams include the checksum.
"""

import argparse

import constriction
import numpy as np
from common import best_time, conditions, table
from compressai.ans import BufferedRansEncoder, RansDecoder

from agvae.entropy.coder import Decoder, Encoder
from agvae.entropy.tables import SCALES, TOTAL, build_tables

CHANNELS, HEIGHT, WIDTH = 192, 32, 48
COMPRESSAI_TOTAL = 1 << 16


class Ours:
    """Our coder, agvae.entropy.coder."""

    name = "ours"

    def __init__(self, tables):
        self.tables = tables

    def encode(self, passes):
        encoder = Encoder(self.tables)
        for symbols, left, right in passes:
            encoder.push_y(symbols, left, right)
        return encoder.finish()

    def decode(self, data, passes):
        decoder = Decoder(self.tables, data)
        symbols = [decoder.pop_y(left, right) for _, left, right in passes]
        decoder.finish()
        return symbols


class OneStep:
    """A library with one alphabet −M, …, M per σ. The symbols of the benchmark need no escapes."""

    def __init__(self, tables):
        magnitudes = rows(tables)
        self.reach = [len(row) - 2 for row in magnitudes]
        self.alphabets = []
        for (a, b), row in zip(tables.sign, magnitudes, strict=True):
            side = np.diff(row)[:-1] / row[-2]
            self.alphabets.append(np.concatenate([(b - a) * side[::-1], [a], (TOTAL - b) * side]) / TOTAL)
        self.prepare()

    def encode(self, passes):
        self.begin()
        for symbols, left, _ in self.ordered(passes):
            self.put(symbols, left)
        return self.end()

    def decode(self, data, passes):
        self.open(data)
        return [self.get(left) for _, left, _ in passes]


class TwoStep:
    """A library that codes a class by the pair of σ, and then a magnitude by one σ."""

    def __init__(self, tables):
        self.symmetric = tables.form == "symmetric"
        self.classes = np.pad(tables.sign, ((0, 0), (1, 1)))
        self.classes[:, -1] = TOTAL
        self.magnitudes = rows(tables)
        self.prepare()

    def encode(self, passes):
        self.begin()
        for symbols, left, right in self.ordered(passes):
            some = symbols != 0
            sides = np.where(symbols < 0, left, right)[some]
            classes = np.where(symbols < 0, 1, 2 * some).astype(np.int32)
            steps = [
                (self.put_classes, classes, pair(left, right)),
                (self.put_magnitudes, np.abs(symbols[some]) - 1, sides),
            ]
            for put, entries, indices in self.ordered(steps):
                put(entries, indices)
        return self.end()

    def decode(self, data, passes):
        self.open(data)
        decoded = []
        for _, left, right in passes:
            classes = self.get_classes(pair(left, right))
            some = classes != 0
            symbols = np.zeros(len(left), dtype=np.int32)
            sizes = self.get_magnitudes(np.where(classes == 1, left, right)[some]) + 1
            symbols[some] = np.where(classes[some] == 1, -sizes, sizes)
            decoded.append(symbols)
        return decoded


class Constriction:
    """constriction's AnsCoder: last in, first out."""

    name = "constriction"

    def ordered(self, passes):
        return reversed(passes)

    def begin(self):
        self.coder = constriction.stream.stack.AnsCoder()

    def end(self):
        return self.coder.get_compressed().tobytes()

    def open(self, data):
        self.coder = constriction.stream.stack.AnsCoder(np.frombuffer(data, dtype=np.uint32))

    def put_grouped(self, models, entries, indices):
        groups, order, bounds = group(indices)
        entries = entries[order].astype(np.int32)
        for i in reversed(range(len(groups))):
            self.coder.encode_reverse(entries[bounds[i] : bounds[i + 1]], models[groups[i]])

    def get_grouped(self, models, indices):
        groups, order, bounds = group(indices)
        entries = np.empty(len(indices), dtype=np.int32)
        for i, member in enumerate(groups):
            size = int(bounds[i + 1] - bounds[i])
            entries[order[bounds[i] : bounds[i + 1]]] = self.coder.decode(models[member], size)
        return entries


def categorical(probabilities):
    return constriction.stream.model.Categorical(probabilities, perfect=False)


class ConstrictionOneStep(Constriction, OneStep):
    def prepare(self):
        self.models = [categorical(alphabet) for alphabet in self.alphabets]
        self.reaches = np.array(self.reach, dtype=np.int32)

    def put(self, symbols, index):
        self.put_grouped(self.models, symbols + self.reaches[index], index)

    def get(self, index):
        return self.get_grouped(self.models, index) - self.reaches[index]


class ConstrictionGaussian(Constriction, OneStep):
    """The library's own Gaussian, which needs no tables but computes every mass in floating point."""

    name = "constriction, its Gaussian"

    def prepare(self):
        self.family = constriction.stream.model.QuantizedGaussian(-max(self.reach), max(self.reach))

    def put(self, symbols, index):
        self.coder.encode_reverse(symbols, self.family, np.zeros(len(index)), SCALES[index])

    def get(self, index):
        return self.coder.decode(self.family, np.zeros(len(index)), SCALES[index])


class ConstrictionTwoStep(Constriction, TwoStep):
    def prepare(self):
        self.family = constriction.stream.model.Categorical(perfect=False)
        self.probabilities = np.diff(self.classes) / TOTAL
        self.models = [categorical(np.diff(row) / TOTAL) for row in self.magnitudes]

    def put_classes(self, classes, indices):
        self.coder.encode_reverse(classes, self.family, self.probabilities[indices])

    def get_classes(self, indices):
        return self.coder.decode(self.family, self.probabilities[indices])

    def put_magnitudes(self, entries, indices):
        self.put_grouped(self.models, entries, indices)

    def get_magnitudes(self, indices):
        return self.get_grouped(self.models, indices)


class CompressAI:
    """CompressAI's ans, which takes and gives lists. The last entry of each of its tables is an escape."""

    name = "CompressAI ans"

    def ordered(self, passes):
        return passes

    def begin(self):
        self.encoder = BufferedRansEncoder()

    def end(self):
        return self.encoder.flush()

    def open(self, data):
        self.decoder = RansDecoder()
        self.decoder.set_stream(data)

    def tables_in_use(self, cdfs, offsets, indices):
        groups, local = np.unique(indices, return_inverse=True)
        used = [cdfs[group] for group in groups]
        return local.tolist(), used, [len(cdf) for cdf in used], [offsets[group] for group in groups]

    def put_grouped(self, cdfs, offsets, entries, indices):
        if len(entries):
            self.encoder.encode_with_indexes(entries.tolist(), *self.tables_in_use(cdfs, offsets, indices))

    def get_grouped(self, cdfs, offsets, indices):
        if not len(indices):
            return np.zeros(0, dtype=np.int32)
        decoded = self.decoder.decode_stream(*self.tables_in_use(cdfs, offsets, indices))
        return np.array(decoded, dtype=np.int32)


class CompressAIOneStep(CompressAI, OneStep):
    def prepare(self):
        self.cdfs = [cumulated(np.append(alphabet, 0)) for alphabet in self.alphabets]
        self.offsets = [-reach for reach in self.reach]

    def put(self, symbols, index):
        self.put_grouped(self.cdfs, self.offsets, symbols, index)

    def get(self, index):
        return self.get_grouped(self.cdfs, self.offsets, index)


class CompressAITwoStep(CompressAI, TwoStep):
    def prepare(self):
        self.class_cdfs = [cumulated(np.append(np.diff(ends), 0) / TOTAL) for ends in self.classes]
        self.magnitude_cdfs = [cumulated(np.diff(row) / TOTAL) for row in self.magnitudes]
        self.zeros = [0] * len(self.class_cdfs)

    def put_classes(self, classes, indices):
        self.put_grouped(self.class_cdfs, self.zeros, classes, indices)

    def get_classes(self, indices):
        return self.get_grouped(self.class_cdfs, self.zeros, indices)

    def put_magnitudes(self, entries, indices):
        self.put_grouped(self.magnitude_cdfs, self.zeros, entries, indices)

    def get_magnitudes(self, indices):
        return self.get_grouped(self.magnitude_cdfs, self.zeros, indices)


def rows(tables):
    """The cumulative frequencies of the magnitudes, one array per σ."""
    return np.split(tables.magnitude, tables.magnitude_start[1:-1])


def pair(left, right):
    """The row of a pair of scale indices in the sign table."""
    return left.astype(np.int32) * len(SCALES) + right


def group(indices):
    """The tables in use, the order that groups their symbols, and the start of each group."""
    order = np.argsort(indices, kind="stable")
    groups, starts = np.unique(indices[order], return_index=True)
    return groups, order, np.append(starts, len(indices))


def cumulated(masses):
    """Cumulative frequencies for CompressAI. The last mass is that of the escape.

    Each frequency is at least 1 of the coder's 2^16, and the most probable entry gets the rest."""
    frequencies = 1 + np.floor(masses * (COMPRESSAI_TOTAL - len(masses))).astype(np.int64)
    frequencies[np.argmax(frequencies)] += COMPRESSAI_TOTAL - frequencies.sum()
    return [0, *np.cumsum(frequencies).tolist()]


def draw(tables, seed=0):
    """Symbols (HEIGHT, WIDTH, CHANNELS) and the scale indices of both sides.

    Most σ are small, so that a symbol has 0.6 bits, as at 0.5 bpp."""
    rng = np.random.default_rng(seed)
    shape = (HEIGHT, WIDTH, CHANNELS)
    left = np.minimum(rng.exponential(15, shape), len(SCALES) - 1).astype(np.uint8)
    right = left
    if tables.form != "symmetric":
        right = np.clip(left + rng.integers(-6, 7, shape), 0, len(SCALES) - 1).astype(np.uint8)
    x = rng.standard_normal(shape)
    sides = np.where(x < 0, left, right)
    reach = np.array([len(row) - 2 for row in rows(tables)])[sides]
    return np.clip(np.rint(x * SCALES[sides]), -reach, reach).astype(np.int32), left, right


def information(tables, symbols, left, right):
    """The information content, in bits, of symbols without escapes under the integer tables."""
    row = left.astype(int) if tables.form == "symmetric" else left.astype(int) * len(SCALES) + right
    zero, end = tables.sign[row].T
    masses = np.choose(np.sign(symbols) + 1, (end - zero, zero, TOTAL - end))
    other = symbols != 0
    entry = tables.magnitude_start[np.where(symbols < 0, left, right)[other]] + np.abs(symbols[other]) - 1
    sizes = tables.magnitude[entry + 1] - tables.magnitude[entry]
    return -sum(np.log2(of / TOTAL).sum() for of in (masses, sizes))


def wavefronts(*arrays):
    """The passes of the multiscale context."""
    number = np.arange(WIDTH)[None] + 4 * np.arange(HEIGHT)[:, None]
    for wave in range(number.max() + 1):
        positions = number == wave
        yield tuple(array[positions].ravel() for array in arrays)


def results(repeats):
    """Rows of the table."""
    contenders = {
        "symmetric": (Ours, ConstrictionOneStep, ConstrictionGaussian, CompressAIOneStep),
        "half_mass": (Ours, ConstrictionTwoStep, CompressAITwoStep),
    }
    for form, coders in contenders.items():
        tables = build_tables(form, [np.ones(1)], np.zeros(1))
        arrays = draw(tables)
        ideal = information(tables, *(array.ravel() for array in arrays)) / 8
        yield f"{form}: {8 * ideal / arrays[0].size:.2f} bits/symbol, {ideal:.0f} bytes", *[""] * 6
        for passes in ([tuple(array.ravel() for array in arrays)], list(wavefronts(*arrays))):
            reference = None
            for coder in (build(tables) for build in coders):
                encoding, data = best_time(lambda: coder.encode(passes), repeats)  # noqa: B023, called at once
                decoding, decoded = best_time(lambda: coder.decode(data, passes), repeats)  # noqa: B023
                assert all((a == one[0]).all() for a, one in zip(decoded, passes, strict=True))
                reference = reference or encoding + decoding
                nanoseconds = [f"{seconds / arrays[0].size * 1e9:.1f}" for seconds in (encoding, decoding)]
                ratio = f"{(encoding + decoding) / reference:.1f}"
                yield form, len(passes), coder.name, *nanoseconds, f"{len(data) - ideal:.0f}", ratio


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=6, help="runs, the first of which warms up")
    repeats = parser.parse_args().repeats
    print(f"{conditions()}\n")
    times = ("encode, ns/symbol", "decode, ns/symbol")
    table(("form", "passes", "coder", *times, "overhead, bytes", "time, ours = 1"), results(repeats))


if __name__ == "__main__":
    main()
