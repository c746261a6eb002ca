"""Entropy coder: integer symbols ↔ bytes, under the integer tables of a model.

An rANS coder with 64-bit states in [2^32, 2^64), 32-bit words and 20-bit frequencies. All arithmetic is on
unsigned integers, so that a stream means the same on every machine.

The stream, as the decoder reads it:

    state   b bytes, little endian, 5 ≤ b ≤ 8 and 4 | (length − b), so that the stream's length says b. Its last byte
            is not zero: 2^(8(b − 1)) ≤ state < 2^(8b)
    words   (length − b) / 4 words of 4 bytes, little endian

Reading an entry that owns [a, a + f) of the 2^20 slots, and reading k raw bits:

    a ≤ state mod 2^20 < a + f                                bits  = state mod 2^k
    state = f · ⌊state / 2^20⌋ + state mod 2^20 − a           state = ⌊state / 2^k⌋

    and then, in both cases, if state < 2^32: state = 2^32 · state + next word

A symbol s of y with the scale indices (i_l, i_r) is first its class, 0 zero, 1 neg or 2 pos, by row i_l·K + i_r of
`Tables.sign` (row i_l for `symmetric`, where i_l = i_r). Unless it is zero, entry j = 0, 1, … of its side's row of
`Tables.magnitude` follows: |s| = j + 1, or, at the row's last entry, which is the escape, |s| = j + 1 + e.

A symbol s of z in channel c is entry j of row c of `Tables.z`: s = z_offset[c] + j. At the last entry, the escape, one
raw bit follows, then e: s = z_offset[c] + j + e if the bit is 1, s = z_offset[c] − 1 − e if it is 0.

An e ≥ 0 is 5 raw bits n ≤ 24, then n raw bits r: e = 2^n + r − 1. Every |s| is below 2^24.

z is coded channel by channel, and y in the order of its passes. The caller decides which comes first. At the end, no
word is left and the state is 2^32 + c, where c is the CRC-32 (zlib's) of all symbols in their order, each as a
little-endian int32. The checksum thus replaces the initial state that every coder has to store. No changed stream can
decode to the same symbols, because state and words are in bijection with symbols and final state.
"""

import zlib

import numpy as np

from agvae.entropy import coder_kernels as kernels
from agvae.entropy.tables import SYMBOL_LIMIT, TOTAL, Tables


class CodingError(ValueError):
    """The data is not a stream of these tables: it is truncated, altered, or from another model."""


class Encoder:
    """Codes symbols into bytes. Call it in the order in which the decoder will read."""

    def __init__(self, tables: Tables, checksum: int = 0):
        """`checksum` is the CRC-32 of everything before the symbols. The stream's own checksum then covers it too."""
        self._tables = tables
        self._segments: list[tuple] = []
        self._checksum = checksum

    def push_z(self, symbols: np.ndarray):
        """Append symbols of z, (C, n) int32, centred on the medians. Raises ValueError past ±2^24."""
        for channel, row in enumerate(_checked_z(self._tables, symbols)):
            self._segments.append((row.copy(), channel))

    def push_y(self, symbols: np.ndarray, left: np.ndarray, right: np.ndarray) -> int:
        """Append one pass of y: symbols (n,) int32 and their scale indices (n,) uint8 of each side.

        Returns a number for `lower`. Raises ValueError for symbols past ±2^24 and for indices outside the grid."""
        symbols = _checked_symbols(symbols, 1)
        left, right = _checked_indices(self._tables, left, right)
        count = len(self._tables.scales)
        if not len(symbols) == len(left) or max(left.max(initial=0), right.max(initial=0)) >= count:
            raise ValueError(f"a symbol needs two scale indices below {count}")
        self._segments.append((symbols.copy(), left.copy(), right.copy()))
        return len(self._segments) - 1

    def lower(self, number: int, where: np.ndarray):
        """Move the symbols at `where`, (k,) indices, of the pass with this number one step towards zero."""
        symbols = self._segments[number][0]
        symbols[where] -= np.sign(symbols[where])

    def finish(self) -> bytes:
        """The stream of everything that was pushed: ⌈(bits + 32) / 8⌉ bytes or one more, where bits is the sum of the
        costs."""
        checksum = self._checksum
        for symbols, *_ in self._segments:
            checksum = _crc32(symbols, checksum)
        state = np.array([kernels.LOWEST | np.uint64(checksum)])
        scratch = np.empty(kernels.WORDS_PER_SYMBOL * _CHUNK, dtype=np.uint32)
        written = []
        # Last in, first out: the decoder first reads the symbol that was coded last.
        for symbols, *context in reversed(self._segments):
            for start in reversed(range(0, len(symbols), _CHUNK)):
                chunk = slice(start, start + _CHUNK)
                if len(context) == 1:
                    count = kernels.encode_z(state, scratch, symbols[chunk], context[0], *_z_arrays(self._tables))
                else:
                    sides = (side[chunk] for side in context)
                    count = kernels.encode_y(state, scratch, symbols[chunk], *sides, *_y_arrays(self._tables))
                written.append(scratch[:count].copy())
        head = int(state[0])
        words = np.concatenate(written)[::-1] if written else scratch[:0]
        return head.to_bytes((head.bit_length() + 7) // 8, "little") + words.astype("<u4").tobytes()


class Decoder:
    """Reads symbols back from bytes, in the order in which they were coded."""

    def __init__(self, tables: Tables, data: bytes, checksum: int = 0):
        """`checksum` is that of the encoder. Raises CodingError if `data` cannot be the start of a stream."""
        if len(data) < 5:
            raise CodingError(f"the stream has {len(data)} bytes, but the shortest possible has 5")
        width = 5 + (len(data) - 5) % 4
        head = int.from_bytes(data[:width], "little")
        if head < 1 << 8 * (width - 1):
            raise CodingError("the first state of the stream is one that no encoder writes")
        self._tables = tables
        words = np.frombuffer(data[width:], dtype="<u4")
        self._words = np.concatenate([words, np.zeros(kernels.WORDS_PER_SYMBOL, "<u4")]).astype(np.uint32)
        self._state = np.array([head, 0], dtype=np.uint64)  # the state, and the number of words read
        self._checksum = checksum

    def pop_z(self, n: int) -> np.ndarray:
        """The next symbols of z, (C, n) int32. Raises CodingError if the data has none."""
        symbols = np.empty((len(self._tables.z_offset), n), dtype=np.int32)
        _check_status(kernels.decode_z(self._state, self._words, symbols, *_z_arrays(self._tables)))
        self._checksum = _crc32(symbols, self._checksum)
        return symbols

    def pop_y(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """The next pass of y, (n,) int32, given the scale indices (n,) uint8 of each side.

        Raises CodingError if the data has none, and ValueError for indices outside the grid."""
        left, right = _checked_indices(self._tables, left, right)
        symbols = np.empty(len(left), dtype=np.int32)
        _check_status(kernels.decode_y(self._state, self._words, symbols, left, right, *_y_arrays(self._tables)))
        self._checksum = _crc32(symbols, self._checksum)
        return symbols

    def finish(self):
        """Raises CodingError unless the stream ends here and its checksum matches the symbols that were read."""
        if int(self._state[1]) != len(self._words) - kernels.WORDS_PER_SYMBOL:
            raise CodingError("the stream continues after its last symbol")
        if int(self._state[0]) != int(kernels.LOWEST) | self._checksum:
            raise CodingError("the checksum does not match the symbols")


def savings_y(tables: Tables, symbols: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Bits that each symbol (n,), none of which is 0, saves when it moves one step towards 0, (n,) float64.

    Negative if that costs more, and 0 for escapes, which are not examined."""
    negative = symbols < 0
    row = left.astype(np.intp)
    if tables.form != "symmetric":
        row = row * len(tables.scales) + right
    zero, end = tables.sign[row].T
    side = np.where(negative, left, right)
    first, escape = tables.magnitude_start[side], tables.magnitude_start[side + 1] - 2
    entry = np.minimum(first + np.abs(symbols) - 1, escape)
    mass = tables.magnitude[entry + 1] - tables.magnitude[entry]
    below = np.maximum(entry - 1, first)
    # From ±1 the class changes, from all others the magnitude.
    ratio = np.where(
        entry == first,
        zero / np.where(negative, end - zero, TOTAL - end) * (TOTAL / mass),
        (tables.magnitude[below + 1] - tables.magnitude[below]) / mass,
    )
    return np.where(entry == escape, 0, np.log2(ratio))


# Symbols coded at once.
_CHUNK = 1 << 16


def _check_status(status: int):
    if status == kernels.NO_DATA:
        raise CodingError("the stream ends before its last symbol")
    if status == kernels.BAD_ESCAPE:
        raise CodingError(f"the stream holds a symbol past ±{SYMBOL_LIMIT}")
    if status == kernels.BAD_INDEX:
        raise ValueError("a scale index lies outside the grid")


def _checked_symbols(symbols: np.ndarray, ndim: int) -> np.ndarray:
    if symbols.dtype != np.int32 or symbols.ndim != ndim:
        raise ValueError(f"symbols must be int32 with {ndim} dimension(s), not {symbols.dtype} with {symbols.ndim}")
    if symbols.size and (symbols.min() <= -SYMBOL_LIMIT or symbols.max() >= SYMBOL_LIMIT):
        raise ValueError(f"a symbol lies past ±{SYMBOL_LIMIT}")
    return np.ascontiguousarray(symbols)


def _checked_z(tables: Tables, symbols: np.ndarray) -> np.ndarray:
    symbols = _checked_symbols(symbols, 2)
    if len(symbols) != len(tables.z_offset):
        raise ValueError(f"z must have the {len(tables.z_offset)} channels of the tables, not {len(symbols)}")
    return symbols


def _checked_indices(tables: Tables, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Makes both contiguous. The caller must check that the values lie in the grid."""
    if left.dtype != np.uint8 or right.dtype != np.uint8 or left.ndim != 1 or left.shape != right.shape:
        raise ValueError("scale indices must be two uint8 vectors of one length")
    if tables.form == "symmetric" and right is not left and not np.array_equal(left, right):
        raise ValueError("symmetric tables need equal scale indices on both sides")
    return np.ascontiguousarray(left), np.ascontiguousarray(right)


def _crc32(symbols: np.ndarray, checksum: int) -> int:
    return zlib.crc32(symbols.astype("<i4", copy=False).data, checksum)


def _y_arrays(tables: Tables):
    return tables.sign, tables.magnitude, tables.magnitude_start, tables.form == "symmetric"


def _z_arrays(tables: Tables):
    return tables.z, tables.z_start, tables.z_offset
