"""Searches for a target: never on the wrong side, close, few trials, clear when it cannot be met."""

import math

import numpy as np
import pytest

from agvae.codec.rate_control import METRIC_SLACK, RATE_SLACK, TargetError, largest_within, smallest_reaching

LAST = 5 * 1024
# About right but for a factor; too steep; nearly flat and with a dent.
CURVES = [np.array([3, 6.4]), np.array([0, 9, 20]), np.array([1, 1.1, 1.05, 1.2])]


def coder(smallest=1000, largest=30000, bend=1.0, dents=0):
    """A file whose size grows from `smallest` to `largest`, along a curve, with dents; and the list of trials."""
    trials = []

    def code(quality):
        trials.append(quality)
        share = (quality / LAST) ** bend
        return bytes(round(smallest * (largest / smallest) ** share) + dents * (quality % 3))

    return code, trials


@pytest.mark.parametrize("target", [1000, 1001, 1234, 5000, 17171, 29999, 30000])
@pytest.mark.parametrize("bend", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("guess", [np.array([7, 10]), np.array([0.0, 1.0]), np.array([20, 19.0])])
def test_file_is_never_over_and_at_most_one_percent_under(target, bend, curve, guess):
    code, trials = coder(bend=bend, dents=1)
    size = len(largest_within(lambda quality: (code(quality), curve), target + 2, LAST, guess))
    # Near the ends a step of quality may be more than 1 % of the size; here none is.
    assert (1 - RATE_SLACK) * (target + 2) - 3 <= size <= target + 2
    assert len(trials) <= 20


def test_a_curve_that_is_right_but_for_a_factor_needs_two_trials():
    code, trials = coder()
    largest_within(lambda quality: (code(quality), np.array([0, math.log(30)])), 5000, LAST, np.array([5, 9]))
    assert len(trials) <= 2


@pytest.mark.parametrize("target", [1, 999, 31000, 10**9])
@pytest.mark.parametrize("curve", CURVES)
def test_targets_out_of_range_name_the_range(target, curve):
    code, _ = coder()
    with pytest.raises(TargetError, match="1000 to 30000 bytes"):
        largest_within(lambda quality: (code(quality), curve), target, LAST, np.array([7, 10]))


@pytest.mark.parametrize("target", [25.0, 25.3, 31.4159, 39.99])
@pytest.mark.parametrize("bend", [0.8, 1.0, 2.0])
def test_metric_is_reached_and_not_by_much(target, bend):
    def code(quality):
        return b"", 25 + 15 * (quality / LAST) ** bend

    reached = {}

    def remember(quality):
        file, value = code(quality)
        file = str(quality).encode()
        reached[file] = value
        return file, value

    file = smallest_reaching(remember, target, LAST, "psnr")
    assert target <= reached[file] <= target + METRIC_SLACK["psnr"]
    assert len(reached) <= 15


@pytest.mark.parametrize("target", [24.9, 40.1])
def test_metrics_out_of_range_name_the_range(target):
    with pytest.raises(TargetError, match=r"25\.0000 to 40\.0000"):
        smallest_reaching(lambda quality: (b"", 25 + 15 * quality / LAST), target, LAST, "psnr")
