"""A second decoder of .agv files: docs/bitstream.md as a NumPy program that shares no code with the package.

    python tests/reference_decoder.py IN.agv OUT.png --model FILE.safetensors

Its parts are in the order of that document. It is written to be read, not to be fast.
"""

import argparse
import hashlib
import io
import json
import sys
import zlib
from bisect import bisect_right
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

MAX_PIXELS = 2**24
INFLATED_MAX = 2**24
SYMBOL_LIMIT = 2**24


class DamagedFileError(ValueError):
    """The decoder cannot read the file with this model."""


def require(condition, message):
    """Raise DamagedFileError with `message` unless `condition` holds."""
    if not condition:
        raise DamagedFileError(message)


# Container


LEARNED, WEBP, PNG = 0, 1, 2
EXTRAS = {"alpha": 2, "exif": 4, "icc_profile": 8, "xmp": 16, "text": 32}


class Header(NamedTuple):
    """Everything before the body. `checksum` is the CRC-32 of all bytes before the length of the body."""

    version: int
    kind: int
    fingerprint: bytes
    width: int
    height: int
    quality: float
    grey: bool
    extras: dict[str, bytes]
    checksum: int


def read_varint(data, position):
    """The number at `position` and the position after it."""
    number = 0
    for index, byte in enumerate(data[position : position + 5]):
        number |= (byte & 127) << (7 * index)
        if byte < 128:
            require(byte or not index, "a number in the header is longer than it needs to be")
            return number, position + index + 1
    raise DamagedFileError("a number in the header does not end")


def read_container(data):
    """Header and body of a file."""
    require(len(data) >= 9 and data[:3] == b"AGV", "this is not an AGV file")
    version, flags = data[3], data[4]
    require(version in (1, 2), f"the format version must be 1 or 2, not {version}")
    require(flags < (16 if version == 1 else 64), f"the flags {flags:#x} are unknown")
    kind, position = (LEARNED, 5) if version == 1 else (data[5], 6)
    require(kind <= PNG, f"the kind of body must be 0, 1 or 2, not {kind}")
    fingerprint, quality, extras = b"", 0, {}
    if kind == LEARNED:
        fingerprint, position = data[position : position + 4], position + 4
    width, position = read_varint(data, position)
    height, position = read_varint(data, position)
    if kind == LEARNED:
        quality, position = read_varint(data, position)
    for name, flag in EXTRAS.items():
        if flags & flag:
            length, position = read_varint(data, position)
            require(0 < length <= len(data) - position, f"the file must hold {length} bytes of {name}")
            extras[name] = data[position : position + length]
            position += length
    checksum = zlib.crc32(data[:position])
    length, position = read_varint(data, position)
    require(width and height, f"the size must be positive, not {width}×{height}")
    require(max(width, 64) * max(height, 64) <= MAX_PIXELS, "the picture has too many pixels")
    require(length == len(data) - position, f"the body must have {length} bytes, not {len(data) - position}")
    body = data[position:]
    if kind != LEARNED:
        found, body = int.from_bytes(body[:4], "little"), body[4:]
        require(found == zlib.crc32(body, checksum), "the checksum must match")
    header = Header(version, kind, fingerprint, width, height, quality / 1024, bool(flags & 1), extras, checksum)
    return header, body


# Model file


class Model(NamedTuple):
    """A model file. Weights are float32. The names of weights and tables have no prefix `model.` or `tables.`."""

    config: dict
    weights: dict[str, np.ndarray]
    tables: dict[str, np.ndarray]
    fingerprint: bytes


DTYPES = {"F16": "float16", "F32": "float32", "F64": "float64", "I32": "int32", "U8": "uint8"}


def read_model(path):
    """Read a model file (safetensors): 8 bytes with the length of a JSON header, the header, and raw tensors."""
    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:start])
    metadata = json.loads(entries.pop("__metadata__")["agvae"])
    require(metadata["format"] == 1, f"{path}: the model file's format must be 1, not {metadata['format']}")
    digest = hashlib.sha256(json.dumps(metadata["model"], sort_keys=True).encode())
    weights, tables = {}, {}
    for name in sorted(entries):
        entry, dtype = entries[name], DTYPES[entries[name]["dtype"]]
        begin, end = entry["data_offsets"]
        raw = data[start + begin : start + end]
        digest.update(f"{name} torch.{dtype} {tuple(entry['shape'])}".encode() + raw)
        array = np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).reshape(entry["shape"])
        part, _, key = name.partition(".")
        if part == "model":
            weights[key] = array.astype(np.float32)
        else:
            tables[key] = array
    return Model(metadata["model"], weights, tables, digest.digest()[:4])


def check_header(header, stream, model):
    """Refuse a wrong or hostile file before it costs memory."""
    require(header.fingerprint == model.fingerprint, "another model made this file")
    last, beyond = model.config["gain"]["levels"] - 1, model.config["gain"]["name"] != "none"
    limit = last + 2 if header.version == 2 and beyond else last
    require(header.quality <= limit, "the quality is past the model's last level")
    needed = header.quality > last or header.extras.keys() & {"xmp", "text"}
    require(header.version == 1 or needed, "the version must be the lowest that holds the file")
    t = model.tables
    likeliest = np.diff(t["sign"], axis=1, prepend=0, append=2**20).max()
    bits = 256 * model.config["transforms"]["M"] // 16 * -np.log2(likeliest / 2**20)
    for first, end in zip(t["z_start"], t["z_start"][1:], strict=False):
        bits -= np.log2(np.diff(t["z"][first:end]).max() / 2**20)
    cells = -(-header.width // 64) * -(-header.height // 64)
    require(8 * len(stream) + 64 >= bits * cells, "the stream is too short for the picture")


# Stream


class Stream:
    """The rANS decoder. It reads symbols in coding order, and continues the CRC-32 of the header over them."""

    def __init__(self, data, checksum, tables):
        require(len(data) >= 5, "the stream must have at least 5 bytes")
        size = 5 + (len(data) - 5) % 4
        self.state = int.from_bytes(data[:size], "little")
        require(self.state >> 8 * (size - 1), "the stream's first state must not end in a zero byte")
        self.words = iter(np.frombuffer(data[size:], "<u4").tolist())
        self.checksum = checksum
        self.symmetric = tables["form"] == 0
        self.tables = {name: array.tolist() for name, array in tables.items()}

    def refill(self):
        """Append the next word to the state if the state is small."""
        if self.state < 2**32:
            word = next(self.words, None)
            require(word is not None, "the stream ends before its last symbol")
            self.state = self.state << 32 | word

    def entry(self, start, end):
        """Remove the entry [start, end), which contains the current slot, from the state."""
        self.state = (end - start) * (self.state >> 20) + self.state % 2**20 - start
        self.refill()

    def bits(self, count):
        """Read raw bits."""
        value = self.state % 2**count
        self.state >>= count
        self.refill()
        return value

    def escape(self):
        """Read the excess that follows the last entry of a row."""
        count = self.bits(5)
        require(count <= 24, "an escape is too large")
        return 2**count - 1 + self.bits(count)

    def from_row(self, cumulative, first, end):
        """The index of the next entry in the row cumulative[first:end], and whether it is the last one, the escape."""
        place = bisect_right(cumulative, self.state % 2**20, first, end) - 1
        self.entry(cumulative[place], cumulative[place + 1])
        return place - first, place == end - 2

    def z_symbol(self, channel):
        """The next symbol of z."""
        first, end = self.tables["z_start"][channel : channel + 2]
        offset = self.tables["z_offset"][channel]
        index, escaped = self.from_row(self.tables["z"], first, end)
        if not escaped:
            return offset + index
        symbol = offset + index + self.escape() if self.bits(1) else offset - 1 - self.escape()
        require(abs(symbol) < SYMBOL_LIMIT, "a symbol of z is too large")
        return symbol

    def y_symbol(self, left, right):
        """The next symbol of y, given the indices of its two scales."""
        row = left if self.symmetric else left * len(self.tables["scales"]) + right
        zero, negative = self.tables["sign"][row]
        slot = self.state % 2**20
        if slot < zero:
            self.entry(0, zero)
            return 0
        sign, side = (-1, left) if slot < negative else (1, right)
        self.entry(*((zero, negative) if sign < 0 else (negative, 2**20)))
        first, end = self.tables["magnitude_start"][side : side + 2]
        index, escaped = self.from_row(self.tables["magnitude"], first, end)
        size = index + 1 + (self.escape() if escaped else 0)
        require(size < SYMBOL_LIMIT, "a symbol of y is too large")
        return sign * size

    def note(self, symbols):
        """The symbols as an array. Adds them to the checksum."""
        symbols = np.array(symbols, dtype="<i4")
        self.checksum = zlib.crc32(symbols.tobytes(), self.checksum)
        return symbols

    def finish(self):
        """Check that all words are read and that the state is the checksum."""
        require(next(self.words, None) is None, "the stream goes on after its last symbol")
        require(self.state == 2**32 + self.checksum, "the checksum is not that of the symbols")


# Exact arithmetic: integers in units of 2^−12, stored as float64

ONE = 2.0**12
LIMIT = 2.0**23


def to_units(sums, slope=1.0):
    """LeakyReLU, then rounding half to even, then clamping."""
    return np.clip(np.rint(np.where(sums < 0, sums * slope, sums)), -LIMIT, LIMIT)


def fixed_point(weight, bias=None, given=0.0):
    """Weights (…, outputs) and the bias, in units, as multiples of 2^−s. s is the largest that keeps all sums exact."""
    weight = weight.astype(np.float64)
    bias = np.zeros(weight.shape[-1]) if bias is None else bias.astype(np.float64) * ONE
    for s in range(24, 9, -1):
        w, b = np.rint(weight * 2.0**s), np.rint(bias * 2.0**s)
        largest = np.abs(w).reshape(-1, w.shape[-1]).sum(0) * LIMIT + np.abs(b) + given * 2.0**s
        if largest.max() < 2.0**53:
            return w / 2.0**s, b / 2.0**s
    raise DamagedFileError("the model's weights are too large for exact sums")


def exact_exp(x):
    """e^x, by the series that the format defines."""
    powers = np.floor(x * 1.4426950408889634 + 0.5)
    rest = x - powers * 0.6931471805599453
    series = np.ones_like(rest)
    for n in range(14, 0, -1):
        series = 1.0 + series * rest / n
    return np.ldexp(series, powers.astype(int))


def interpolated_log(model, unit, quality):
    """The logarithm of an inverse gain at a quality, float64. None if the model has no such unit."""
    if f"{unit}.log_inverse" not in model.weights:
        return None
    logs = model.weights[f"{unit}.log_inverse"].astype(np.float64)
    trained = min(quality, len(logs) - 1)
    lower = int(trained)
    upper = min(lower + 1, len(logs) - 1)
    log = logs[lower] + (trained - lower) * (logs[upper] - logs[lower])
    return log - (quality - trained) * np.log(2.0) if unit == "gain" else log


# Layers over maps (H, W, channels), for exact and for floating-point arithmetic


def convolve(x, weight):
    """Convolution with weight (k, k, inputs, outputs) and margins of zeros."""
    radius, (height, width, _) = len(weight) // 2, x.shape
    x = np.pad(x, ((radius, radius), (radius, radius), (0, 0)))
    taps = np.ndindex(weight.shape[:2])
    return sum(x[dy : dy + height, dx : dx + width] @ weight[dy, dx] for dy, dx in taps)


def convolve_up(x, weight):
    """Transposed 5×5 convolution. With tap k, input i adds to output 2i + k − 2."""
    height, width, _ = x.shape
    out = np.zeros((2 * height + 4, 2 * width + 4, weight.shape[-1]), x.dtype)
    for ky, kx in np.ndindex(5, 5):
        out[ky : ky + 2 * height : 2, kx : kx + 2 * width : 2] += x @ weight[ky, kx]
    return out[2:-2, 2:-2]


def shuffle(x, factor):
    """Pixel shuffle: channel c·f² + i·f + j goes to channel c at position (i, j) of an f×f square."""
    height, width, channels = x.shape
    x = x.reshape(height, width, channels // factor**2, factor, factor).transpose(0, 3, 1, 4, 2)
    return x.reshape(height * factor, width * factor, -1)


# Hyperprior: z to ψ


def hyper_synthesis(model, z, quality):
    """ψ in units, (H/16, W/16, channels), from symbols of z (H/64, W/64, N)."""
    medians = to_units(model.weights["prior.quantiles"][:, 0, 1].astype(np.float64) * ONE) / ONE
    x = (z.astype(np.float32) + medians.astype(np.float32)).astype(np.float64)
    log = interpolated_log(model, "hyper_gain", quality)
    if log is not None:
        x = x * (to_units(exact_exp(log) * ONE) / ONE)
    x = to_units(x * ONE)
    if model.config["transforms"]["name"] == "minnen2018":
        layers = [("up", "0"), ("up", "2"), ("plain", "4")]
    else:
        layers = [("plain", "0"), ("shuffle", "2.0"), ("plain", "4"), ("shuffle", "6.0"), ("plain", "8")]
    for kind, name in layers:
        weight = model.weights[f"h_s.{name}.weight"]
        weight = weight.transpose(2, 3, 0, 1) if kind == "up" else weight.transpose(2, 3, 1, 0)
        weight, bias = fixed_point(weight, model.weights[f"h_s.{name}.bias"])
        sums = (convolve_up if kind == "up" else convolve)(x, weight) + bias
        x = to_units(sums, 1.0 if name == layers[-1][1] else 0.01)
        x = shuffle(x, 2) if kind == "shuffle" else x
    return x


# Contexts


class Kind(NamedTuple):
    """The cells that share a network: their channels, and the name and (tap, dy, dx, channels) of each convolution."""

    channels: slice
    convolutions: list[tuple[str, list[tuple[int, int, int, slice]]]]


def schedule(name, M, height, width):
    """The kinds of cells, and the passes: lists of (kind, rows, columns)."""
    i, j = np.mgrid[:height, :width]
    everything = slice(0, M)
    if name == "none":
        return [Kind(everything, [])], [[(0, i.ravel(), j.ravel())]]
    if name == "checkerboard":
        taps = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if (dy + dx) % 2]
        reads = [(tap, *place, everything) for tap, place in enumerate(taps)]
        kinds = [Kind(everything, []), Kind(everything, [("convolution", reads)])]
        return kinds, [[(p, *np.nonzero((i + j) % 2 == p))] for p in (0, 1)]
    if name == "multiscale":
        before = [(dy, dx) for dy in range(-3, 1) for dx in range(-3, 4) if (dy, dx) < (0, 0)]
        before.sort(key=lambda tap: max(abs(tap[0]), abs(tap[1])))
        convolutions = [
            (f"convolutions.{r - 1}", [(tap, *before[tap], everything) for tap in range(2 * r * (r + 1))])
            for r in (1, 2, 3)
        ]
        wavefronts = [np.nonzero(j + 4 * i == t) for t in range(width + 4 * (height - 1))]
        return [Kind(everything, convolutions)], [[(0, *places)] for places in wavefronts]
    require(name == "quadtree", f"the context {name} is unknown")
    quarters = [slice(g * M // 4, (g + 1) * M // 4) for g in range(4)]
    taps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    kinds = []
    for p, g in np.ndindex(4, 4):
        reads = [
            (tap, dy, dx, quarters[other])
            for tap, (dy, dx) in enumerate(taps)
            for other in range(4)
            # The left side is the pass in which this quarter of this neighbour is coded.
            if (g ^ p) ^ (2 * (dy % 2) + dx % 2) ^ other < p
        ]
        kinds.append(Kind(quarters[g], [(f"convolutions.{p - 1}", reads)] if p else []))
    phase = 2 * (i % 2) + j % 2
    return kinds, [[(4 * p + g, *np.nonzero(phase == g ^ p)) for g in range(4)] for p in range(4)]


def network(w, kind, K):
    """The fixed-point layers of a kind of cells. Only the weights that these cells use determine s."""
    convolutions = []
    for name, reads in kind.convolutions:
        matrix = np.concatenate([w[f"{name}.weight"][:, channels, tap].T for tap, _, _, channels in reads])
        convolutions.append(fixed_point(matrix, w[f"{name}.bias"]))
    rows = np.arange(len(w["head.3.bias"])).reshape(K, -1)[:, kind.channels].ravel()
    join = fixed_point(w["from_context.weight"].T, given=LIMIT)
    hidden = fixed_point(w["head.1.weight"].T, w["head.1.bias"])
    return convolutions, join, hidden, fixed_point(w["head.3.weight"][rows].T, w["head.3.bias"][rows])


def cell_parameters(layers, kind, features, y_hat, rows, columns):
    """Parameters (n, K·channels) of the cells at some positions, in units. `y_hat` has a margin of 3."""
    convolutions, join, hidden, last = layers
    sums = features[rows, columns]
    if convolutions:
        outputs = []
        for (_, reads), (weight, bias) in zip(kind.convolutions, convolutions, strict=True):
            read = [y_hat[rows + 3 + dy, columns + 3 + dx, channels] for _, dy, dx, channels in reads]
            values = np.clip(np.concatenate(read, 1).astype(np.float64) * ONE, -LIMIT, LIMIT)
            outputs.append(to_units(values @ weight + bias))
        sums = sums + np.concatenate(outputs, 1) @ join[0]
    x = to_units(sums, 0.01)
    x = to_units(x @ hidden[0] + hidden[1], 0.01)
    return to_units(x @ last[0] + last[1])


def decode_latent(model, stream, psi):
    """ŷ (H/16, W/16, M) float32, and the symbols of y in coding order."""
    M, K = model.config["transforms"]["M"], 2 if stream.symmetric else 3
    height, width, _ = psi.shape
    context = model.config["context"]["name"]
    kinds, passes = schedule(context, M, height, width)
    if context != "none":
        w = {name.removeprefix("context."): array for name, array in model.weights.items()}
        weight, bias = fixed_point(w["from_hyper.weight"].T, w["from_hyper.bias"])
        features = to_units(psi @ weight + bias)
        networks = [network(w, kind, K) for kind in kinds]
    scales = model.tables["scales"]
    thresholds = np.sqrt(scales[:-1] * scales[1:]).astype(np.float32)
    smallest = np.float32(0.11 / 3 if model.config["entropy"].get("tail") else 0.11)
    y_hat = np.zeros((height + 6, width + 6, M), np.float32)
    symbols = []
    for cells in passes:
        done = []
        for number, rows, columns in cells:
            kind = kinds[number]
            units = psi[rows, columns]
            if context != "none":
                units = cell_parameters(networks[number], kind, features, y_hat, rows, columns)
            *sigmas, mu = (units / ONE).astype(np.float32).reshape(len(rows), K, -1).transpose(1, 0, 2)
            indices = [np.searchsorted(thresholds, np.maximum(sigma, smallest)).ravel().tolist() for sigma in sigmas]
            read = stream.note([stream.y_symbol(*pair) for pair in zip(indices[0], indices[-1], strict=True)])
            symbols.append(read)
            done.append((rows, columns, kind.channels, read.reshape(mu.shape).astype(np.float32) + mu))
        # Cells of one pass do not depend on each other.
        for rows, columns, channels, values in done:
            y_hat[rows + 3, columns + 3, channels] = values
    return y_hat[3:-3, 3:-3], np.concatenate(symbols)


class Parsed(NamedTuple):
    """The exact contents of a file: the symbols in coding order, and ŷ."""

    header: Header
    z: np.ndarray
    y: np.ndarray
    y_hat: np.ndarray


def parse(data, model):
    """Read a whole file, up to the picture."""
    header, data = read_container(data)
    check_header(header, data, model)
    height, width = -(-header.height // 64), -(-header.width // 64)
    N = model.config["transforms"]["N"]
    stream = Stream(data, header.checksum, model.tables)
    z = stream.note([stream.z_symbol(channel) for channel in range(N) for _ in range(height * width)])
    psi = hyper_synthesis(model, z.reshape(N, height, width).transpose(1, 2, 0), header.quality)
    y_hat, y = decode_latent(model, stream, psi)
    stream.finish()
    return Parsed(header, z, y, y_hat)


# Picture: floating point from here on


class Synthesis:
    """g_s of the three transforms."""

    def __init__(self, model):
        self.w = {name.removeprefix("g_s."): w for name, w in model.weights.items() if name.startswith("g_s.")}
        self.transforms = model.config["transforms"]

    def __call__(self, x):
        """x̂ (H, W, 3) from the latent (H/16, W/16, M)."""
        return getattr(self, self.transforms["name"])(x)

    def minnen2018(self, x):
        for index in (0, 2, 4):
            x = self.inverse_gdn(self.up(x, f"{index}"), f"{index + 1}")
        return self.up(x, "6")

    def residual(self, x):
        x = self.residual_up(self.residual_block(self.attention(x, "0"), "1"), "2")
        x = self.residual_up(self.residual_block(x, "3"), "4")
        x = self.residual_up(self.residual_block(self.attention(x, "5"), "6"), "7")
        return shuffle(self.conv(self.residual_block(x, "8"), "9.0"), 2)

    def depthwise(self, x):
        x = shuffle(self.conv(self.depthwise_block(self.conv(x, "0"), "1"), "2.0"), 2)
        blocks = self.transforms["blocks"]
        for index in range(3, 3 + blocks):
            x = self.depthwise_block(x, f"{index}")
        return shuffle(self.conv(x, f"{3 + blocks}.0"), 8)

    def conv(self, x, name):
        return convolve(x, self.w[f"{name}.weight"].transpose(2, 3, 1, 0)) + self.w[f"{name}.bias"]

    def up(self, x, name):
        return convolve_up(x, self.w[f"{name}.weight"].transpose(2, 3, 0, 1)) + self.w[f"{name}.bias"]

    def inverse_gdn(self, x, name):
        beta = np.maximum(self.w[f"{name}.beta"], (1e-6 + 2.0**-36) ** 0.5) ** 2 - 2.0**-36
        gamma = np.maximum(self.w[f"{name}.gamma"], 2.0**-18) ** 2 - 2.0**-36
        return x * np.sqrt(beta + (x * x) @ gamma.T)

    def residual_block(self, x, name):
        inner = leaky_relu(self.conv(leaky_relu(self.conv(x, f"{name}.body.0")), f"{name}.body.2"))
        return inner + (self.conv(x, f"{name}.skip") if f"{name}.skip.weight" in self.w else x)

    def residual_up(self, x, name):
        inner = leaky_relu(shuffle(self.conv(x, f"{name}.body.0.0"), 2))
        inner = self.inverse_gdn(self.conv(inner, f"{name}.body.2"), f"{name}.body.3")
        return inner + shuffle(self.conv(x, f"{name}.skip.0"), 2)

    def attention(self, x, name):
        trunk = mask = x
        for index in range(3):
            trunk = self.attention_unit(trunk, f"{name}.trunk.{index}")
            mask = self.attention_unit(mask, f"{name}.mask.{index}")
        return x + trunk * sigmoid(self.conv(mask, f"{name}.mask.3"))

    def attention_unit(self, x, name):
        inner = np.maximum(self.conv(x, f"{name}.body.0"), 0)
        inner = np.maximum(self.conv(inner, f"{name}.body.2"), 0)
        return np.maximum(self.conv(inner, f"{name}.body.4") + x, 0)

    def depthwise_block(self, x, name):
        inner = self.conv(x, f"{name}.spatial.0")
        inner = self.depthwise_conv(inner * sigmoid(inner), f"{name}.spatial.2")
        x = x + self.conv(inner, f"{name}.spatial.3")
        value, gate = np.split(self.conv(x, f"{name}.expand"), 2, axis=-1)
        return np.clip(x + self.conv(value * gate * sigmoid(gate), f"{name}.project"), -32, 32)

    def depthwise_conv(self, x, name):
        height, width, _ = x.shape
        weight = self.w[f"{name}.weight"]
        x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        taps = np.ndindex(3, 3)
        out = sum(x[dy : dy + height, dx : dx + width] * weight[:, 0, dy, dx] for dy, dx in taps)
        return out + self.w[f"{name}.bias"]


def leaky_relu(x):
    return np.where(x < 0, np.float32(0.01) * x, x)


def sigmoid(x):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def learned_pixels(parsed, model):
    """The pixels of a parsed file, (height, width, 3) uint8."""
    header, y_hat = parsed.header, parsed.y_hat
    log = interpolated_log(model, "gain", header.quality)
    if log is not None:
        y_hat = y_hat * np.exp(log).astype(np.float32)
    x_hat = Synthesis(model)(y_hat)[: header.height, : header.width]
    return np.rint(np.clip(np.nan_to_num(x_hat), 0, 1) * 255).astype(np.uint8)


def with_extras(image, header):
    """The picture with alpha and metadata. A colour picture becomes grey if the header says so."""
    if header.grey and image.mode == "RGB":
        grey = np.array(image).astype(int) @ [19595, 38470, 7471] + 32768 >> 16
        image = Image.fromarray(grey.astype(np.uint8))
    info = {name: inflate(block) for name, block in header.extras.items() if name != "alpha"}
    if "text" in info:
        try:
            info["text"] = json.loads(info["text"])
        except ValueError as error:
            raise DamagedFileError(f"the text is not JSON: {error}") from error
    if "alpha" in header.extras:
        image.putalpha(read_image(header.extras["alpha"], "PNG", ("L",), header))
    image.info.update(info)
    return image


def read_image(data, name, modes, header):
    """Read a PNG or WebP file, which must have the size of the picture."""
    try:
        image = Image.open(io.BytesIO(data), formats=[name])
        require(image.mode in modes, f"the mode must be one of {modes}, not {image.mode}")
        require(image.size == (header.width, header.height), "the size must be that of the header")
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise DamagedFileError(f"a {name} file in it cannot be read: {error}") from error
    image.info.clear()
    return image


def decode(data, model=None):
    """The picture of a file. A lossless body needs no model."""
    header, body = read_container(data)
    if header.kind == WEBP:
        require(body[12:16] == b"VP8L", "the WebP file must be a simple lossless one")
        return with_extras(read_image(body, "WEBP", ("RGB",), header), header)
    if header.kind == PNG:
        return with_extras(read_image(body, "PNG", ("1", "L", "RGB", "I;16"), header), header)
    require(model is not None, "a learned body needs the model that made it: --model")
    parsed = parse(data, model)
    return with_extras(Image.fromarray(learned_pixels(parsed, model)), header)


def inflate(data):
    """Inflate a block of metadata."""
    inflater = zlib.decompressobj()
    try:
        block = inflater.decompress(data, INFLATED_MAX)
    except zlib.error as error:
        raise DamagedFileError(f"a block of metadata does not inflate: {error}") from error
    require(inflater.eof and not inflater.unused_data, "a block of metadata must end where it should")
    return block


def main():
    """Decode a file to a PNG."""
    parser = argparse.ArgumentParser(description="Decode an .agv file with NumPy.")
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--model", help="the model file of a learned body")
    options = parser.parse_args()
    try:
        model = read_model(options.model) if options.model else None
        image = decode(Path(options.input).read_bytes(), model)
    except DamagedFileError as error:
        sys.exit(f"{options.input}: {error}")
    metadata = {name: image.info[name] for name in ("exif", "icc_profile") if name in image.info}
    image.save(options.output, "PNG", **metadata)


if __name__ == "__main__":
    main()
