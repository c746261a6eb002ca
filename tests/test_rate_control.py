"""Searches for a target: never on the wrong side, close, few trials, clear when it cannot be met."""

import math

import pytest

from agvae.codec.rate_control import METRIC_SLACK, RATE_SLACK, TargetError, largest_within, smallest_reaching

LAST = 5 * 1024


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
@pytest.mark.parametrize("guess", [None, (0, 1e-4), (3000, 6e-4), (LAST, 2e-3)])
def test_file_is_never_over_and_at_most_one_percent_under(target, bend, guess):
    code, trials = coder(bend=bend, dents=1)
    size = len(largest_within(code, target + 2, LAST, guess))
    # Near the ends a step of quality may be more than 1 % of the size; here none is.
    assert (1 - RATE_SLACK) * (target + 2) - 3 <= size <= target + 2
    assert len(trials) <= 15


def test_a_good_guess_needs_two_trials():
    code, trials = coder()
    slope = math.log(30) / LAST
    quality = round(math.log(5000 / 1000) / slope)
    largest_within(code, 5000, LAST, (quality + 60, slope * 1.05))
    assert len(trials) <= 2


@pytest.mark.parametrize("target", [1, 999, 31000, 10**9])
@pytest.mark.parametrize("guess", [None, (2000, 5e-4)])
def test_targets_out_of_range_name_the_range(target, guess):
    code, _ = coder()
    with pytest.raises(TargetError, match="1000 to 30000 bytes"):
        largest_within(code, target, LAST, guess)


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
