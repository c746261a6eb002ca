"""Damaged and hostile model files load, or are refused with one sentence, quickly and in little memory.

Each case is drawn from its own number. `pytest tests/test_strange_models.py -k "[17]"` repeats the block that a
failure names. benchmarks/soak.py runs many more of them.
"""

import json
import struct
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import TINY, lively_model

from agvae.codec import Codec, ModelError, model_file

CASES, BLOCK = 180, 60


class Container(NamedTuple):
    """The parts of a safetensors file: its JSON header and the bytes after it."""

    header: dict[str, Any]
    data: bytes

    @classmethod
    def of(cls, file: bytes) -> "Container":
        (length,) = struct.unpack("<Q", file[:8])
        return cls(json.loads(file[8 : 8 + length]), file[8 + length :])

    def pack(self) -> bytes:
        text = json.dumps(self.header).encode()
        return struct.pack("<Q", len(text)) + text + self.data

    @property
    def metadata(self) -> dict[str, Any]:
        """The file's description of its model."""
        return json.loads(self.header["__metadata__"]["agvae"])

    def with_metadata(self, metadata: Any) -> "Container":
        text = metadata if isinstance(metadata, str) else json.dumps(metadata)
        return Container(self.header | {"__metadata__": {"agvae": text}}, self.data)

    def names(self, prefix: str = "") -> list[str]:
        return [name for name in self.header if name.startswith(prefix) and name != "__metadata__"]


STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 8.0, 0.5, -0.0, 1e308, float("nan"), float("inf"), 1024, 1025, 2**31, 2**64),
    *("", "none", "hcvr", "quadtree", "depthwise", "\n\x1b[31m", "é" * 5000, [], [1], {}, {"name": "none"}, 10**4000),
)
"""Values to put where others are expected."""


def flip_bits(file: bytes, rng: np.random.Generator) -> bytes:
    """Flip one to eight bits, mostly in the header."""
    data, (length,) = bytearray(file), struct.unpack("<Q", file[:8])
    end = 8 + length if rng.random() < 0.7 else len(data)
    for bit in rng.integers(8 * end, size=rng.integers(1, 9)):
        data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


def cut(file: bytes, rng: np.random.Generator) -> bytes:
    """Cut off the end or the beginning."""
    at = rng.integers(len(file))
    return file[:at] if rng.random() < 0.7 else file[at:]


def header_length(file: bytes, rng: np.random.Generator) -> bytes:
    """Change the length of the header."""
    lengths = (0, 1, 2, len(file) - 8, len(file), 10**8, 10**8 + 1, 2**31, 2**63, 2**64 - 1)
    return struct.pack("<Q", int(rng.choice(np.array(lengths, dtype=np.uint64)))) + file[8:]


def tensor_entry(file: bytes, rng: np.random.Generator) -> bytes:
    """Change the type, shape or position of a tensor in the header."""
    container = Container.of(file)
    entry = container.header[rng.choice(container.names())]
    kind = rng.integers(4)
    if kind == 0:
        entry["dtype"] = str(
            rng.choice(["F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "C64", "X"])
        )
    elif kind == 1:
        shape = (*entry["shape"], 1)
        shapes = ([], [2**40, 2**40], [0], [-1], [2**62] * 4, list(shape), shape[::-1], [1] * 5000, [1.5])
        entry["shape"] = shapes[rng.integers(len(shapes))]
    elif kind == 2:
        begin, end = entry["data_offsets"]
        places = ([0, 0], [end, begin], [begin, 2**63], [begin, end + 4], [-1, end], [begin], [0, len(container.data)])
        entry["data_offsets"] = places[rng.integers(len(places))]
    else:
        entry.pop(str(rng.choice(list(entry))))
    return container.pack()


def other_tensors(file: bytes, rng: np.random.Generator) -> bytes:
    """Remove, rename, add or exchange tensors."""
    container = Container.of(file)
    header, name = container.header, str(rng.choice(container.names()))
    kind = rng.integers(4)
    if kind == 0:
        header.pop(name)
    elif kind == 1:
        header[str(STRANGE[rng.integers(len(STRANGE) - 1)])] = header.pop(name)
    elif kind == 2:
        header["model." + "x" * int(rng.integers(1, 10**5))] = header[name]
    else:
        other = str(rng.choice(container.names()))
        header[name], header[other] = header[other], header[name]
    return container.pack()


def configuration(file: bytes, rng: np.random.Generator) -> bytes:
    """Change one value in the description of the model, at any depth, or add a key."""
    container = Container.of(file)
    metadata = container.metadata
    place = metadata
    while rng.random() < 0.8:
        inner = [value for value in place.values() if isinstance(value, dict) and value]
        if not inner:
            break
        place = inner[rng.integers(len(inner))]
    key = str(rng.choice([*place, "more"]))
    place[key] = STRANGE[rng.integers(len(STRANGE))]
    return container.with_metadata(_text(metadata)).pack()


def widths(file: bytes, rng: np.random.Generator) -> bytes:
    """Describe a model of other parts and random sizes."""
    container = Container.of(file)
    metadata, config = container.metadata, container.metadata["model"]
    sizes = [int(n) for n in 2 ** rng.uniform(0, 10, 5)]
    transforms: dict[str, Any] = {"name": str(rng.choice(["minnen2018", "residual", "depthwise"])), "N": sizes[0]}
    transforms["M"] = sizes[1]
    if transforms["name"] == "depthwise":
        transforms |= {"blocks": sizes[2], "H": sizes[3]}
    context = str(rng.choice(["none", "checkerboard", "multiscale", "quadtree"]))
    config |= {"transforms": transforms, "context": {"name": context, "width": sizes[4]}}
    if rng.random() < 0.5:
        config["gain"]["levels"] = int(rng.integers(1, 1025))
    return container.with_metadata(metadata | {"model": config}).pack()


def metadata_text(file: bytes, rng: np.random.Generator) -> bytes:
    """Replace the metadata by text that is no JSON, another value, very deep or very long."""
    texts = ("", "{", "null", "[]", "1", '"x"', "[" * 10**5, '{"a":' * 10**5, "9" * 10**5, '{"model": {}, "format": 1}')
    return Container.of(file).with_metadata(texts[rng.integers(len(texts))]).pack()


def numbers(file: bytes, rng: np.random.Generator) -> bytes:
    """Replace numbers of a tensor by infinite, very large, unsorted or inconsistent ones."""
    container = Container.of(file)
    name = str(rng.choice(container.names(str(rng.choice(["model.", "tables."])))))
    entry = container.header[name]
    begin, end = entry["data_offsets"]
    kinds = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "I32": np.int32, "U8": np.uint8}
    values = np.frombuffer(container.data[begin:end], kinds[entry["dtype"]]).copy()
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            strange = np.array([np.nan, np.inf, -np.inf, 0, -1, 1e-40, 6e4, 3e38]).astype(values.dtype)
    else:
        limits = np.iinfo(values.dtype)
        strange = np.array([limits.min, limits.max, 0, 1, 2**20 & limits.max], values.dtype)
    where = rng.random(len(values)) < rng.choice([0, 0.1, 1])
    where[rng.integers(len(values))] = True
    values[where] = rng.choice(strange)
    if rng.random() < 0.2:
        values = np.sort(values)[::-1]
    data = container.data[:begin] + values.tobytes() + container.data[end:]
    return Container(container.header, data).pack()


MUTATIONS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    *(flip_bits, cut, header_length, tensor_entry, other_tensors, configuration, widths, metadata_text, numbers),
)


def _text(metadata: Any) -> str:
    """JSON of the metadata, even with numbers that Python does not write because they are too long."""
    return json.dumps(metadata, default=str) if not _has_long(metadata) else _with_long(metadata)


def _has_long(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_long, value.values()))
    return isinstance(value, int) and abs(value) > 10**100


def _with_long(metadata: Any) -> str:
    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replaced(inner) for key, inner in value.items()}
        return "LONG" if _has_long(value) else value

    return json.dumps(replaced(metadata)).replace('"LONG"', "1" + "0" * 4000)


def mutated(file: bytes, case: int) -> tuple[str, bytes]:
    """The name of a mutation, and the mutated file."""
    mutation = MUTATIONS[case % len(MUTATIONS)]
    return mutation.__name__, mutation(file, np.random.default_rng(case))


def outcome(path, file: bytes) -> tuple[str | None, float]:
    """The sentence that refuses a file, or None if it loads, and the seconds."""
    path.write_bytes(file)
    start = time.process_time()
    try:
        Codec.load(path)
    except ModelError as error:
        return str(error), time.process_time() - start
    return None, time.process_time() - start


def is_sentence(text: str) -> bool:
    """Whether a text is readable: one line, not long, no control characters."""
    return text.isprintable() and 0 < len(text) < 500


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[bytes]:
    """Sound model files with several contexts and transforms."""
    path, made = tmp_path_factory.mktemp("models") / "sound.safetensors", []
    depthwise = {"name": "depthwise", "N": 8, "M": 12, "blocks": 1}
    for changes in (
        {},
        {"context": {"name": "quadtree"}, "transforms": depthwise},
        {"context": {"name": "multiscale"}},
    ):
        model_file.from_model(lively_model(TINY | changes), half=len(made) == 1).save(path)
        made.append(path.read_bytes())
    return made


@pytest.mark.parametrize(
    "block", [0, *(pytest.param(block, marks=pytest.mark.slow) for block in range(1, CASES // BLOCK))]
)
def test_a_strange_model_file_loads_or_is_refused_in_a_sentence(files, tmp_path, block):
    refused = 0
    for case in range(block * BLOCK, (block + 1) * BLOCK):
        name, file = mutated(files[case % len(files)], case)
        try:
            sentence, _ = outcome(tmp_path / "strange.safetensors", file)
        except Exception as error:
            raise AssertionError(f"case {case}, {name}: {error!r}") from error
        refused += sentence is not None
        assert sentence is None or is_sentence(sentence), f"case {case}, {name}: {sentence[:300]!r}"
    assert refused > BLOCK / 2
