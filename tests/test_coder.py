"""The coder's streams are short, exact, as documented, and never misread."""

import zlib
from itertools import pairwise

import constriction
import numpy as np
import pytest
from coding_cost import cost_y, cost_z
from hypothesis import given, settings
from hypothesis import strategies as st

from agvae.entropy.coder import CodingError, Decoder, Encoder, savings_y
from agvae.entropy.tables import FORMS, SCALES, SYMBOL_LIMIT, TOTAL, Tables, build_tables

Z_PMF = [np.array([0.05, 0.2, 0.5, 0.2]), np.array([0.9]), np.full(37, 1 / 37)]
Z_OFFSET = np.array([-2, 0, -20])
TABLES = {form: build_tables(form, Z_PMF, Z_OFFSET) for form in FORMS}
LARGEST = SYMBOL_LIMIT - 1


def draw(form, n, seed=0, mean_index=20):
    """Symbols of y drawn from their densities, with the scale indices of both sides."""
    rng = np.random.default_rng(seed)
    left = np.minimum(rng.exponential(mean_index, n), len(SCALES) - 1).astype(np.uint8)
    right = left if form == "symmetric" else np.roll(left, 1)
    x = rng.standard_normal(n)
    return np.rint(x * SCALES[np.where(x < 0, left, right)]).astype(np.int32), left, right


def encode(tables, z, *passes):
    encoder = Encoder(tables)
    encoder.push_z(z)
    for one in passes:
        encoder.push_y(*one)
    return encoder.finish()


def decode(tables, data, n_z, *indices):
    decoder = Decoder(tables, data)
    z = decoder.pop_z(n_z)
    passes = [decoder.pop_y(left, right) for left, right in indices]
    decoder.finish()
    return z, *passes


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [0, 1, 2, 1000, 150_000])
def test_symbols_come_back_and_bytes_follow_bits(form, n):
    tables = TABLES[form]
    y, left, right = draw(form, n)
    z = np.random.default_rng(1).integers(-3, 3, (3, 40), dtype=np.int32)
    data = encode(tables, z, (y, left, right))
    z_out, y_out = decode(tables, data, 40, (left, right))
    np.testing.assert_array_equal(z_out, z)
    np.testing.assert_array_equal(y_out, y)
    bits = cost_z(tables, z) + cost_y(tables, y, left, right)
    assert 0 <= len(data) - np.ceil((bits + 32) / 8) <= 1


symbol = st.integers(-3, 3) | st.integers(-LARGEST, LARGEST) | st.sampled_from([-LARGEST, LARGEST])
index = st.integers(0, len(SCALES) - 1)


@given(
    z=st.lists(st.tuples(symbol, symbol, symbol), max_size=6),
    y=st.lists(st.tuples(symbol, index, index), max_size=60),
    form=st.sampled_from(FORMS),
)
@settings(max_examples=150, deadline=None)
def test_any_symbols_come_back(z, y, form):
    tables = TABLES[form]
    z = np.array(z, dtype=np.int32).reshape(-1, 3).T
    y, left, right = np.array(y, dtype=np.int32).reshape(-1, 3).T
    left = left.astype(np.uint8)
    right = left if form == "symmetric" else right.astype(np.uint8)
    data = encode(tables, z, (y, left, right))
    z_out, y_out = decode(tables, data, z.shape[1], (left, right))
    np.testing.assert_array_equal(z_out, z)
    np.testing.assert_array_equal(y_out, y)
    bits = cost_z(tables, z) + cost_y(tables, y, left, right)
    assert 0 <= len(data) - np.ceil((bits + 32) / 8) <= 1


def test_passes_do_not_show_in_the_stream():
    y, left, right = draw("half_mass", 5000)
    z = np.zeros((3, 4), dtype=np.int32)
    whole = encode(TABLES["half_mass"], z, (y, left, right))
    cuts = [0, 0, 1, 7, 1000, 1000, 4999, 5000]
    slices = [slice(a, b) for a, b in pairwise(cuts)]
    parts = encode(TABLES["half_mass"], z, *[(y[s], left[s], right[s]) for s in slices])
    assert parts == whole
    _, *passes = decode(TABLES["half_mass"], whole, 4, *[(left[s], right[s]) for s in slices])
    np.testing.assert_array_equal(np.concatenate(passes), y)


def test_what_was_pushed_may_be_overwritten():
    y, left, right = draw("half_mass", 100)
    expected = encode(TABLES["half_mass"], np.ones((3, 2), np.int32), (y, left, right))
    encoder, z = Encoder(TABLES["half_mass"]), np.ones((3, 2), np.int32)
    encoder.push_z(z)
    encoder.push_y(y, left, right)
    for array in (z, y, left, right):
        array[:] = 0
    assert encoder.finish() == expected


def test_cost_is_that_of_the_tables_masses():
    tables = TABLES["half_mass"]
    y, left, right = draw("half_mass", 300, mean_index=40)
    bits = 0.0
    for s, i_l, i_r in zip(y, left.astype(int), right.astype(int), strict=True):
        a, b = tables.sign[i_l * len(SCALES) + i_r]
        bits -= np.log2([b - a, a, TOTAL - b][np.sign(s) + 1] / TOTAL)
        if s:
            start = tables.magnitude_start[i_l if s < 0 else i_r] + abs(s) - 1
            bits -= np.log2((tables.magnitude[start + 1] - tables.magnitude[start]) / TOTAL)
    assert cost_y(tables, y, left, right) == pytest.approx(bits, rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_savings_are_differences_of_cost(form):
    tables = TABLES[form]
    y, left, right = draw(form, 600, mean_index=60)
    y[:20] = np.arange(-2000, 2000, 200) + 1  # outside the tables
    y, left, right = (array[y != 0] for array in (y, left, right))
    saved = savings_y(tables, y, left, right)
    for i, symbol in enumerate(y):
        at = slice(i, i + 1)
        steps = (np.array([value], np.int32) for value in (symbol, symbol - np.sign(symbol)))
        expected = np.subtract(*(cost_y(tables, step, left[at], right[at]) for step in steps))
        assert saved[i] == pytest.approx(expected, abs=1e-5) or (saved[i] == 0 and abs(symbol) > 1)
    assert (saved > 0).mean() > 0.5


def test_lowered_symbols_are_one_step_nearer_to_zero_and_nothing_else_changes():
    y, left, right = draw("half_mass", 500)
    where = np.flatnonzero(y)[::3]
    expected = y.copy()
    expected[where] -= np.sign(y[where])
    z, encoder = np.zeros((3, 2), np.int32), Encoder(TABLES["half_mass"])
    encoder.push_z(z)
    numbers = [encoder.push_y(y, left, right) for _ in range(3)]
    before = encoder.finish()
    encoder.lower(numbers[1], where)
    assert encoder.finish() == encode(TABLES["half_mass"], z, *((s, left, right) for s in (y, expected, y)))
    assert len(encoder.finish()) < len(before)


def by_the_book(tables, data, n_z, left, right):
    """A decoder in plain Python, written from the docstring of the module alone."""
    width = next(b for b in (5, 6, 7, 8) if (len(data) - b) % 4 == 0)
    state = int.from_bytes(data[:width], "little")
    words = [int.from_bytes(data[i : i + 4], "little") for i in range(width, len(data), 4)]

    def refill():
        nonlocal state
        if state < 2**32:
            state = state << 32 | words.pop(0)

    def entry(ends):
        nonlocal state
        slot = state % TOTAL
        j = next(j for j in range(len(ends) - 1) if ends[j] <= slot < ends[j + 1])
        state = (ends[j + 1] - ends[j]) * (state // TOTAL) + slot - ends[j]
        refill()
        return j

    def raw(k):
        nonlocal state
        value, state = state % 2**k, state // 2**k
        refill()
        return value

    def escaped():
        n = raw(5)
        return 2**n + raw(n) - 1

    def row(flat, start, i):
        return [int(value) for value in flat[start[i] : start[i + 1]]]

    symbols = []
    for c, offset in enumerate(tables.z_offset):
        ends = row(tables.z, tables.z_start, c)
        for _ in range(n_z):
            j = entry(ends)
            if j == len(ends) - 2:
                symbols.append(offset + j + escaped() if raw(1) else offset - 1 - escaped())
            else:
                symbols.append(offset + j)
    for i_l, i_r in zip(left, right, strict=True):
        i = i_l if tables.form == "symmetric" else int(i_l) * len(tables.scales) + int(i_r)
        side = entry([0, *map(int, tables.sign[i]), TOTAL])
        if side == 0:
            symbols.append(0)
            continue
        ends = row(tables.magnitude, tables.magnitude_start, i_l if side == 1 else i_r)
        j = entry(ends)
        size = j + 1 + (escaped() if j == len(ends) - 2 else 0)
        symbols.append(-size if side == 1 else size)
    symbols = np.array(symbols, dtype="<i4")
    assert not words
    assert state == 2**32 + zlib.crc32(symbols.tobytes())
    return symbols


@pytest.mark.parametrize("form", FORMS)
def test_the_stream_is_as_documented(form):
    y, left, right = draw(form, 400, mean_index=40)
    y[::50] *= 1000
    y[77] = LARGEST
    z = np.random.default_rng(1).integers(-30, 30, (3, 12), dtype=np.int32)
    z[0, :2] = -LARGEST, LARGEST
    data = encode(TABLES[form], z, (y, left, right))
    expected = np.concatenate([z.ravel(), y])
    np.testing.assert_array_equal(by_the_book(TABLES[form], data, 12, left, right), expected)


def small_tables():
    """Tables of two scales and one channel, written by hand, so that they do not depend on floating point."""
    return Tables(
        form="half_mass",
        scales=np.array([0.5, 2.0]),
        sign=16 * np.array([[40000, 52000], [30000, 40000], [30000, 55000], [10000, 37000]], dtype=np.int32),
        magnitude=16 * np.array([0, 60000, 65536, 0, 20000, 40000, 55000, 65000, 65536], dtype=np.int32),
        magnitude_start=np.array([0, 3, 9], dtype=np.int32),
        z=16 * np.array([0, 10000, 50000, 65000, 65536], dtype=np.int32),
        z_start=np.array([0, 5], dtype=np.int32),
        z_offset=np.array([-1], dtype=np.int32),
    )


SMALL_Z = np.array([[0, 0, 1, -1, 5, -3, 0]], dtype=np.int32)
SMALL_Y = np.array([0, 1, -1, 0, 2, 0, 0, -3, 4, 70, 0, -9000, 0, 1], dtype=np.int32)
SMALL_LEFT = np.array([0, 1] * 7, dtype=np.uint8)
SMALL_RIGHT = np.array([0, 0, 1, 1, 1, 1, 0] * 2, dtype=np.uint8)


def test_the_stream_is_the_same_for_ever():
    data = encode(small_tables(), SMALL_Z, (SMALL_Y, SMALL_LEFT, SMALL_RIGHT))
    assert data.hex() == "85de5a38bfab2f82f18b53a1b9adcb8d0dd1e5"
    z, y = decode(small_tables(), data, SMALL_Z.shape[1], (SMALL_LEFT, SMALL_RIGHT))
    np.testing.assert_array_equal(z, SMALL_Z)
    np.testing.assert_array_equal(y, SMALL_Y)


def test_every_altered_or_cut_stream_is_refused():
    tables = small_tables()
    data = encode(tables, SMALL_Z, (SMALL_Y, SMALL_LEFT, SMALL_RIGHT))
    altered = [data[:i] + bytes([data[i] ^ flip]) + data[i + 1 :] for i in range(len(data)) for flip in range(1, 256)]
    cut = [data[:i] for i in range(len(data))] + [data[i:] for i in range(1, len(data))]
    longer = [data + bytes(n) for n in range(1, 9)] + [bytes(n) + data for n in range(1, 9)]
    for bad in altered + cut + longer:
        with pytest.raises(CodingError):
            decode(tables, bad, SMALL_Z.shape[1], (SMALL_LEFT, SMALL_RIGHT))


@given(data=st.binary(max_size=200), form=st.sampled_from(FORMS))
@settings(max_examples=150, deadline=None)
def test_noise_is_refused(data, form):
    _, left, right = draw(form, 3000, mean_index=60)
    with pytest.raises(CodingError):
        decode(TABLES[form], data, 50, (left, right))


def test_other_tables_or_indices_are_refused():
    y, left, right = draw("half_mass", 3000)
    z = np.zeros((3, 4), dtype=np.int32)
    data = encode(TABLES["half_mass"], z, (y, left, right))
    with pytest.raises(CodingError):
        decode(TABLES["two_piece"], data, 4, (left, right))
    other = right.copy()
    other[1500] ^= 16
    with pytest.raises(CodingError):
        decode(TABLES["half_mass"], data, 4, (left, other))
    with pytest.raises(CodingError, match="continues"):
        decode(TABLES["half_mass"], data, 4, (left[:-900], right[:-900]))


def test_wrong_arguments_are_refused():
    tables = TABLES["half_mass"]
    y, left, right = draw("half_mass", 10)
    outside = np.full_like(left, len(SCALES))
    encoder, decoder = Encoder(tables), Decoder(tables, Encoder(tables).finish())
    for arguments in (
        (y.astype(np.int64), left, right),
        (y, left.astype(np.int32), right),
        (y[:-1], left, right),
        (y, left, right[:-1]),
        (y[None], left[None], right[None]),
        (y, left, outside),
        (y, outside, right),
        (np.full_like(y, SYMBOL_LIMIT), left, right),
        (np.full_like(y, -(2**31)), left, right),
    ):
        with pytest.raises(ValueError, match=r"symbol|indices"):
            encoder.push_y(*arguments)
    for z in (np.zeros((2, 5), np.int32), np.full((3, 1), SYMBOL_LIMIT, np.int32), np.zeros(3, np.int32)):
        with pytest.raises(ValueError, match=r"symbol|channels"):
            encoder.push_z(z)
    for arguments in ((left, outside), (outside, right), (left, right[:-1]), (left.astype(np.int64), right)):
        with pytest.raises(ValueError, match="ind"):
            decoder.pop_y(*arguments)
    with pytest.raises(ValueError, match="equal"):
        Encoder(TABLES["symmetric"]).push_y(y, left, right)


def test_streams_are_as_long_as_constrictions():
    """constriction's ANS coder gets the same masses, entry by entry. Our first state, the checksum, takes 4 bytes."""
    tables = TABLES["half_mass"]
    y, left, right = draw("half_mass", 4000, mean_index=30)
    ours = encode(tables, np.zeros((3, 0), np.int32), (y, left, right))
    coder = constriction.stream.stack.AnsCoder()

    def push(ends, entry):
        model = constriction.stream.model.Categorical(np.diff(ends) / TOTAL, perfect=False)
        coder.encode_reverse(entry, model)

    for s, i_l, i_r in zip(y[::-1], left[::-1].astype(int), right[::-1].astype(int), strict=True):
        if s:
            i = i_l if s < 0 else i_r
            ends = tables.magnitude[tables.magnitude_start[i] : tables.magnitude_start[i + 1]]
            push(ends, abs(int(s)) - 1)
        push([0, *tables.sign[i_l * len(SCALES) + i_r], TOTAL], 0 if s == 0 else 1 if s < 0 else 2)
    assert abs(len(ours) - 4 - coder.num_bits() / 8) <= 4
