"""The cost of symbols under integer tables, in bits: an oracle for the coder, written from its documentation."""

import numpy as np

from agvae.entropy.tables import TOTAL


def cost_z(tables, symbols):
    """The cost of symbols of z, (C, n)."""
    bits = 0.0
    for row, start, stop, offset in zip(symbols, tables.z_start, tables.z_start[1:], tables.z_offset, strict=False):
        masses = np.diff(tables.z[start:stop])
        entry, escape = row.astype(np.int64) - offset, len(masses) - 1
        excess = np.where(entry >= escape, entry - escape, -1 - entry)
        escaped = (entry < 0) | (entry >= escape)
        bits -= np.log2(masses[np.where(escaped, escape, entry)] / TOTAL).sum()
        bits += (1 + 5 + _length(excess[escaped])).sum()
    return bits


def cost_y(tables, symbols, left, right):
    """The cost of a pass of y. The arguments are those of `Encoder.push_y`."""
    left, right = left.astype(np.int64), right.astype(np.int64)
    row = left if tables.form == "symmetric" else left * len(tables.scales) + right
    zero, end = tables.sign[row].T.astype(np.int64)
    bits = -np.log2(np.choose(np.sign(symbols) + 1, (end - zero, zero, TOTAL - end)) / TOTAL).sum()
    other = symbols != 0
    side = np.where(symbols < 0, left, right)[other]
    first, escape = tables.magnitude_start[side], tables.magnitude_start[side + 1] - 2
    entry = first + np.abs(symbols[other].astype(np.int64)) - 1
    excess, entry = (entry - escape)[entry >= escape], np.minimum(entry, escape)
    bits -= np.log2((tables.magnitude[entry + 1] - tables.magnitude[entry]) / TOTAL).sum()
    return bits + (5 + _length(excess)).sum()


def _length(excess):
    """The number of bits of excess + 1, without the leading one."""
    return np.floor(np.log2(excess + 1.0))
