"""The integer tables agree with the densities, are exact distributions, and refuse nonsense."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from agvae.entropy.tables import (
    FORMS,
    SCALES,
    TOTAL,
    Tables,
    build_tables,
    quantize_pmf,
    scale_index,
)

Z_PMF = [np.array([0.1, 0.6, 0.2]), np.array([0.99999]), norm.pdf(np.arange(-9, 12), scale=2)]
Z_OFFSET = np.array([-1, 0, -9])


@pytest.fixture(scope="module", params=[0.0, 0.1], ids="tail {}".format)
def tail(request):
    return request.param


@pytest.fixture(scope="module", params=FORMS)
def tables(request, tail):
    return build_tables(request.param, Z_PMF, Z_OFFSET, tail=tail)


def rows(flat, start):
    return [flat[a:b] for a, b in pairwise(start)]


def sign_masses(tables):
    """The masses of zero, neg and pos, (rows, 3)."""
    ends = np.pad(tables.sign, ((0, 0), (1, 1)))
    ends[:, -1] = TOTAL
    return np.diff(ends) / TOTAL


def cdf(form, x, sigma_l, sigma_r, tail=0.0):
    """SciPy's distribution function of each form."""
    if tail:
        return (1 - tail) * cdf(form, x, sigma_l, sigma_r) + tail * cdf(form, x, 3 * sigma_l, 3 * sigma_r)
    if form == "two_piece":
        left = 2 * sigma_l / (sigma_l + sigma_r) * norm.cdf(x / sigma_l)
        right = 1 - 2 * sigma_r / (sigma_l + sigma_r) * norm.sf(x / sigma_r)
    else:
        left, right = norm.cdf(x / sigma_l), norm.cdf(x / sigma_r)
    return np.where(x < 0, left, right)


def test_every_row_is_a_distribution_of_positive_integers(tables):
    assert (sign_masses(tables) * TOTAL >= 1).all()
    for flat, start in ((tables.magnitude, tables.magnitude_start), (tables.z, tables.z_start)):
        for row in rows(flat, start):
            assert row[0] == 0
            assert row[-1] == TOTAL
            assert (np.diff(row) >= 1).all()


@pytest.mark.parametrize(("i_l", "i_r"), [(0, 0), (40, 40), (30, 55), (80, 20), (0, 127), (127, 127)])
def test_masses_agree_with_scipy(tables, tail, i_l, i_r):
    sigma_l, sigma_r = tables.scales[[i_l, i_l if tables.form == "symmetric" else i_r]]
    if tables.form == "symmetric":
        row = i_r = i_l
    else:
        row = i_l * len(SCALES) + i_r
    _, neg, pos = sign_masses(tables)[row]
    magnitudes = rows(tables.magnitude, tables.magnitude_start)
    for side, mass, index in ((-1, neg, i_l), (1, pos, i_r)):
        given_side = np.diff(magnitudes[index])[:-1] / TOTAL
        symbols = side * np.arange(1, len(given_side) + 1)
        ends = [cdf(tables.form, symbols + h, sigma_l, sigma_r, tail) for h in (-0.5, 0.5)]
        expected = ends[1] - ends[0]
        # One unit of 2^-16 for each of the two steps, and one for the positive frequencies of the tail.
        np.testing.assert_allclose(mass * given_side, expected, rtol=0.01, atol=3 / TOTAL)


def test_integer_tables_cost_few_bits_more_than_the_density(tables, tail):
    """The cost is below 0.1 % over the alphabets of all σ from 0.2 on, with equal sides."""
    diagonal = np.arange(len(SCALES)) * (1 if tables.form == "symmetric" else len(SCALES) + 1)
    signs = sign_masses(tables)[diagonal]
    excess, entropy = 0.0, 0.0
    for sigma, sign, row in zip(tables.scales, signs, rows(tables.magnitude, tables.magnitude_start), strict=True):
        if sigma < 0.2:
            continue
        given_side = np.diff(row) / TOTAL
        ends = cdf(tables.form, -np.arange(len(given_side)) - 0.5, sigma, sigma, tail)
        side = np.append(ends[:-1] - ends[1:], ends[-1])
        zero = 1 - 2 * ends[0]
        bits = -zero * np.log2(sign[0]) - side @ (2 * np.log2(given_side) + np.log2(sign[1] * sign[2]))
        ideal = -zero * np.log2(zero) - 2 * side @ np.log2(side)
        excess, entropy = excess + bits - ideal, entropy + ideal
    assert 0 <= excess < 1e-3 * entropy


def test_symmetric_equals_both_asymmetric_forms_with_equal_sides():
    symmetric, *others = (build_tables(form, Z_PMF, Z_OFFSET) for form in FORMS)
    for other in others:
        diagonal = other.sign[np.arange(len(SCALES)) * (len(SCALES) + 1)]
        assert np.abs(diagonal - symmetric.sign).max() <= 1
        np.testing.assert_array_equal(other.magnitude, symmetric.magnitude)


def test_z_rows_hold_the_masses_given_and_the_rest_for_the_escape(tables):
    for pmf, row in zip(Z_PMF, rows(tables.z, tables.z_start), strict=True):
        masses = np.diff(row) / TOTAL
        np.testing.assert_allclose(masses[:-1], pmf, atol=len(pmf) / TOTAL)
        assert masses[-1] == pytest.approx(max(0, 1 - pmf.sum()), abs=len(pmf) / TOTAL)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40).filter(lambda p: sum(p) > 1e-3))
@settings(max_examples=60, deadline=None)
def test_no_move_of_one_unit_saves_a_millionth_of_a_bit(weights):
    pmf = np.array(weights) / sum(weights)
    freq = quantize_pmf(pmf)
    assert freq.sum() == TOTAL
    assert freq.min() >= 1
    gain = pmf * np.log2((freq + 1) / freq)
    loss = np.where(freq > 1, pmf * np.log2(freq / np.maximum(freq - 1, 1)), np.inf)
    assert gain.max() <= loss.min() + 1e-6


@pytest.mark.parametrize("pmf", [[np.nan, 0.5], [-0.1, 1.1], [0.0, 0.0], np.ones(TOTAL + 1)])
def test_what_is_no_distribution_is_refused(pmf):
    with pytest.raises(ValueError, match="probability masses"):
        quantize_pmf(pmf)


def test_scale_index_is_the_nearest_point_in_log_sigma():
    sigma = torch.exp(torch.linspace(np.log(0.01), np.log(1000), 5001, dtype=torch.float64)).reshape(3, -1)
    nearest = np.abs(np.log(sigma.numpy())[..., None] - np.log(SCALES)).argmin(-1)
    index = scale_index(sigma)
    assert index.dtype == torch.uint8
    np.testing.assert_array_equal(index.numpy(), nearest)
    np.testing.assert_array_equal(scale_index(torch.from_numpy(SCALES)).numpy(), np.arange(len(SCALES)))
    np.testing.assert_array_equal(scale_index(torch.from_numpy(SCALES).float()).numpy(), np.arange(len(SCALES)))


def test_nearest_scale_costs_less_than_a_thousandth_in_bits():
    """This holds for log-uniform σ over the whole grid, and over its low end, where most of a latent lies."""
    symbols = np.arange(-1300, 1301)

    def masses(sigma):
        # Computed from the upper tail of both halves, so that small masses keep their precision.
        edge = np.abs(symbols)[None] / sigma[:, None]
        half = 0.5 / sigma[:, None]
        return np.maximum(norm.sf(edge - half) - norm.sf(edge + half), 1e-300)

    for highest in (2.0, SCALES[-1]):
        sigma = np.geomspace(SCALES[0], highest, 400)
        p, q = masses(sigma), masses(SCALES[scale_index(torch.from_numpy(sigma)).numpy()])
        excess = (p * np.log2(p / q)).sum()
        assert excess < 1e-3 * -(p * np.log2(p)).sum()


def test_tables_are_small(tables):
    assert tables.nbytes < 400_000


def test_tensors_carry_the_tables(tables):
    tensors = tables.to_tensors()
    assert {tensor.dtype for tensor in tensors.values()} == {torch.uint8, torch.int32, torch.float64}
    again = Tables.from_tensors(tensors)
    assert again.form == tables.form
    for name in tensors.keys() - {"form"}:
        np.testing.assert_array_equal(getattr(again, name), getattr(tables, name))


def edit(name, change):
    def apply(tensors):
        tensors[name] = change(tensors[name].clone())

    return apply


def assign(index, value):
    def change(tensor):
        tensor[index] = value
        return tensor

    return change


HOSTILE = {
    "a missing tensor": lambda tensors: tensors.pop("z"),
    "a foreign tensor": lambda tensors: tensors.update(weight=torch.zeros(3)),
    "an unknown form": edit("form", lambda t: torch.tensor(7, dtype=torch.uint8)),
    "a form of another shape": edit("form", lambda t: torch.zeros(2, dtype=torch.uint8)),
    "floats": edit("magnitude", lambda t: t.double()),
    "a type numpy lacks": edit("magnitude", lambda t: t.bfloat16()),
    "another number of dimensions": edit("magnitude", lambda t: t[None]),
    "a sign table too short": edit("sign", lambda t: t[:-1]),
    "a sign class without mass": edit("sign", assign((5, 0), 0)),
    "a sign class past the total": edit("sign", assign((5, 1), TOTAL)),
    "sign classes out of order": edit("sign", lambda t: t.flip(1)),
    "more scales than an index": edit("scales", lambda t: torch.arange(1, 300, dtype=torch.float64)),
    "no scale": edit("scales", lambda t: t[:0]),
    "a negative scale": edit("scales", assign(0, -1.0)),
    "an infinite scale": edit("scales", assign(-1, float("inf"))),
    "frequencies that fall": edit("magnitude", assign(4, TOTAL + 1)),
    "a negative frequency": edit("magnitude", assign(1, -5)),
    "a row that does not end at the total": edit("magnitude", lambda t: t[:-1]),
    "a row past the end": edit("magnitude_start", assign(-1, 2**31 - 1)),
    "a row before the start": edit("magnitude_start", assign(0, -3)),
    "rows out of order": edit("magnitude_start", lambda t: t.flip(0)),
    "starts that jump": edit("magnitude_start", assign(5, -(2**31))),
    "too few starts": edit("z_start", lambda t: t[:-1]),
    "no channel": lambda tensors: tensors.update(
        z=tensors["z"][:0], z_start=tensors["z_start"][:1], z_offset=tensors["z_offset"][:0]
    ),
    "an offset out of range": edit("z_offset", assign(0, 2**30)),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_hostile_tensors_are_refused(change):
    tensors = build_tables("half_mass", Z_PMF, Z_OFFSET).to_tensors()
    change(tensors)
    with pytest.raises(ValueError, match="coding tables"):
        Tables.from_tensors(tensors)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="form"):
        build_tables("laplace", Z_PMF, Z_OFFSET)
