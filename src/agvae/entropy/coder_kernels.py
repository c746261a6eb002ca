"""The compiled loops of the entropy coder, which process one symbol after another as agvae.entropy.coder describes.

A state is uint64 throughout, because beside a signed integer numba would turn it into a float. Indices need no check
against the ends of arrays, because Tables guarantees rows that run from 0 to 2^20. The steps take and return scalars: a
call that passes an array counts its references atomically, which takes longer than coding a symbol.
"""

import numpy as np

from agvae.entropy.tables import PRECISION, SYMBOL_LIMIT, TOTAL
from agvae.machine_code import compiled

WORDS_PER_SYMBOL = 4
"""A symbol has at most four steps (class or z's entry, magnitude or side, length, bits), each with at most one word.
The decoder finds that many zeros behind the data, so it checks for the end only once per symbol."""

DONE, NO_DATA, BAD_ESCAPE, BAD_INDEX = range(4)
"""Return values of a decoding loop."""

LOWEST = np.uint64(1 << 32)
"""The smallest state between two symbols."""

_WORD = np.uint64(32)
_WORD_MASK = np.uint64((1 << 32) - 1)
_PRECISION = np.uint64(PRECISION)
_SLOT_MASK = np.uint64(TOTAL - 1)
_WORD_AND_PRECISION = np.uint64(64 - PRECISION)
_STATE_BITS = np.uint64(64)
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_LENGTH_BITS = 5
_MAX_LENGTH = 24

_kernel = compiled(nogil=True, error_model="numpy")


@_kernel
def _push(x, start, end):
    """Code an entry that owns [start, end). Returns the state, a word, and whether (1 or 0) to write the word."""
    frequency = np.uint64(end - start)
    word, spilled = np.uint32(x & _WORD_MASK), 0
    if (x >> _WORD_AND_PRECISION) >= frequency:
        x, spilled = x >> _WORD, 1
    quotient = x // frequency
    return (quotient << _PRECISION) + (x - quotient * frequency) + np.uint64(start), word, spilled


@_kernel
def _push_bits(x, value, count):
    """Code `count` raw bits. Returns as `_push` does."""
    k = np.uint64(count)
    word, spilled = np.uint32(x & _WORD_MASK), 0
    if count > 0 and x >> (_STATE_BITS - k) > _ZERO:
        x, spilled = x >> _WORD, 1
    return (x << k) | np.uint64(value), word, spilled


@_kernel
def _pop(x, next_word, start, end):
    """Decode an entry that owns [start, end). Returns the state, and whether (1 or 0) it consumed the next word."""
    x = np.uint64(end - start) * (x >> _PRECISION) + (x & _SLOT_MASK) - np.uint64(start)
    if x < LOWEST:
        return (x << _WORD) | np.uint64(next_word), 1
    return x, 0


@_kernel
def _pop_bits(x, next_word, count):
    """Read `count` raw bits. Returns their value, and then what `_pop` returns."""
    k = np.uint64(count)
    value = np.int64(x & ((_ONE << k) - _ONE))
    x >>= k
    if x < LOWEST:
        return value, (x << _WORD) | np.uint64(next_word), 1
    return value, x, 0


@_kernel
def _escape_length(excess):
    """The number of bits of excess + 1 without its leading one."""
    length = 0
    while (excess + 1) >> (length + 1) > 0:
        length += 1
    return length


@_kernel
def encode_y(state, words, symbols, left, right, sign, magnitude, magnitude_start, symmetric):
    """Code symbols from the last to the first. Returns the number of words written."""
    x, n = state[0], 0
    count = magnitude_start.size - 1
    for i in range(symbols.size - 1, -1, -1):
        symbol = np.int64(symbols[i])
        row = np.int64(left[i]) if symmetric else np.int64(left[i]) * count + right[i]
        if symbol == 0:
            start, end = np.int64(0), np.int64(sign[row, 0])
        else:
            side = left[i] if symbol < 0 else right[i]
            first, last = np.int64(magnitude_start[side]), np.int64(magnitude_start[side + 1]) - 2
            entry = first + abs(symbol) - 1
            if entry >= last:
                excess, entry = entry - last, last
                length = _escape_length(excess)
                x, words[n], spilled = _push_bits(x, excess + 1 - (1 << length), length)
                n += spilled
                x, words[n], spilled = _push_bits(x, length, _LENGTH_BITS)
                n += spilled
            x, words[n], spilled = _push(x, magnitude[entry], magnitude[entry + 1])
            n += spilled
            if symbol < 0:
                start, end = np.int64(sign[row, 0]), np.int64(sign[row, 1])
            else:
                start, end = np.int64(sign[row, 1]), np.int64(TOTAL)
        x, words[n], spilled = _push(x, start, end)
        n += spilled
    state[0] = x
    return n


@_kernel
def encode_z(state, words, symbols, channel, z, z_start, z_offset):
    """Code symbols of one channel from the last to the first. Returns the number of words written."""
    x, n = state[0], 0
    first, last = np.int64(z_start[channel]), np.int64(z_start[channel + 1]) - 2
    for i in range(symbols.size - 1, -1, -1):
        entry = first + symbols[i] - z_offset[channel]
        if entry < first or entry >= last:
            above = entry >= last
            excess, entry = entry - last if above else first - 1 - entry, last
            length = _escape_length(excess)
            x, words[n], spilled = _push_bits(x, excess + 1 - (1 << length), length)
            n += spilled
            x, words[n], spilled = _push_bits(x, length, _LENGTH_BITS)
            n += spilled
            x, words[n], spilled = _push_bits(x, above, 1)
            n += spilled
        x, words[n], spilled = _push(x, z[entry], z[entry + 1])
        n += spilled
    state[0] = x
    return n


@_kernel
def decode_y(state, words, symbols, left, right, sign, magnitude, magnitude_start, symmetric):
    """Fill `symbols`. Returns a status."""
    x, position = state[0], np.int64(state[1])
    count = magnitude_start.size - 1
    end_of_data = words.size - WORDS_PER_SYMBOL
    for i in range(symbols.size):
        i_l, i_r = np.int64(left[i]), np.int64(right[i])
        if i_l >= count or i_r >= count:
            return BAD_INDEX
        row = i_l if symmetric else i_l * count + i_r
        slot = np.int64(x & _SLOT_MASK)
        if slot < sign[row, 0]:
            x, taken = _pop(x, words[position], 0, sign[row, 0])
            position += taken
            symbols[i] = 0
        else:
            negative = slot < sign[row, 1]
            if negative:
                side, start, end = i_l, np.int64(sign[row, 0]), np.int64(sign[row, 1])
            else:
                side, start, end = i_r, np.int64(sign[row, 1]), np.int64(TOTAL)
            x, taken = _pop(x, words[position], start, end)
            position += taken
            # The first steps of the bisection stay near the row's start, because small magnitudes are the most likely.
            first, last = np.int64(magnitude_start[side]), np.int64(magnitude_start[side + 1]) - 2
            slot, low, high, reach = np.int64(x & _SLOT_MASK), first, last, 0
            while low < high:
                middle = min(low + reach, (low + high) >> 1)
                if slot < magnitude[middle + 1]:
                    high = middle
                else:
                    low, reach = middle + 1, 2 * reach + 1
            x, taken = _pop(x, words[position], magnitude[low], magnitude[low + 1])
            position += taken
            size = low - first + 1
            if low == last:
                length, x, taken = _pop_bits(x, words[position], _LENGTH_BITS)
                position += taken
                if length > _MAX_LENGTH:
                    return BAD_ESCAPE
                bits, x, taken = _pop_bits(x, words[position], length)
                position += taken
                size += (1 << length) - 1 + bits
                if size >= SYMBOL_LIMIT:
                    return BAD_ESCAPE
            symbols[i] = -size if negative else size
        if position > end_of_data:
            return NO_DATA
    state[0], state[1] = x, position
    return DONE


@_kernel
def decode_z(state, words, symbols, z, z_start, z_offset):
    """Fill `symbols`, (C, n). Returns a status."""
    x, position = state[0], np.int64(state[1])
    end_of_data = words.size - WORDS_PER_SYMBOL
    for channel in range(symbols.shape[0]):
        first, last = np.int64(z_start[channel]), np.int64(z_start[channel + 1]) - 2
        offset = np.int64(z_offset[channel])
        for i in range(symbols.shape[1]):
            slot, low, high = np.int64(x & _SLOT_MASK), first, last
            while low < high:
                middle = (low + high) >> 1
                if slot < z[middle + 1]:
                    high = middle
                else:
                    low = middle + 1
            x, taken = _pop(x, words[position], z[low], z[low + 1])
            position += taken
            symbol = offset + low - first
            if low == last:
                above, x, taken = _pop_bits(x, words[position], 1)
                position += taken
                length, x, taken = _pop_bits(x, words[position], _LENGTH_BITS)
                position += taken
                if length > _MAX_LENGTH:
                    return BAD_ESCAPE
                bits, x, taken = _pop_bits(x, words[position], length)
                position += taken
                excess = (1 << length) - 1 + bits
                symbol = symbol + excess if above else offset - 1 - excess
                if abs(symbol) >= SYMBOL_LIMIT:
                    return BAD_ESCAPE
            if position > end_of_data:
                return NO_DATA
            symbols[channel, i] = symbol
    state[0], state[1] = x, position
    return DONE
