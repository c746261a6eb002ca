"""Drawn training pictures: they depend only on the seed, have all kinds, and make up the configured share."""

import numpy as np
import pytest
import torch

from agvae.data import drawn
from agvae.data.datasets import Patches
from agvae.data.sample_stream import SampleStream


class OneGreyImage:
    paths = ("grey.png",)

    def __getitem__(self, index):
        return np.full((80, 80, 3), 119, np.uint8)


@pytest.fixture
def cheap(monkeypatch):
    """Noise instead of drawn pictures, for tests that do not depend on their content."""

    def noise(random, side):
        return random.integers(0, 256, (side, side, 3), dtype=np.uint8)

    monkeypatch.setattr("agvae.data.datasets.drawn_picture", noise)


def patches(share, seed=0):
    return Patches(OneGreyImage(), 64, SampleStream(1, seed), share)


@pytest.mark.parametrize("kind", drawn._KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("side", [64, 97])
def test_a_drawn_picture_follows_from_its_seed(kind, side):
    first, again, other = (kind(np.random.default_rng(seed), side) for seed in (1, 1, 2))
    assert first.shape == (side, side, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_all_kinds_are_drawn(monkeypatch):
    kinds = [lambda random, side, name=kind.__name__: name for kind in drawn._KINDS]
    monkeypatch.setattr(drawn, "_KINDS", kinds)
    found = [drawn.drawn_picture(np.random.default_rng(seed), 64) for seed in range(300)]
    assert min(found.count(kind(None, 64)) for kind in kinds) > 300 / len(kinds) / 2


def test_the_share_of_drawn_patches_is_the_one_asked_for(cheap):
    some, none, all_of_them = patches(0.25), patches(0.0), patches(1.0)
    names = [some[number][1] for number in range(800)]
    assert 0.2 < names.count("drawn") / len(names) < 0.3
    assert {none[number][1] for number in range(50)} == {"grey.png"}
    assert {all_of_them[number][1] for number in range(20)} == {"drawn"}


def test_sample_numbers_alone_decide_what_is_drawn():
    """A resumed run, and any number of processes, then see the same patches."""
    data, later, other = patches(0.5), patches(0.5), patches(0.5, seed=1)
    wanted = [data[number][0] for number in range(12)]
    for number in reversed(range(12)):
        assert torch.equal(later[number][0], wanted[number])
    assert any(not torch.equal(other[number][0], wanted[number]) for number in range(12))


def test_photographs_are_the_same_with_and_without_drawn_ones(cheap):
    mixed, photographs = patches(0.5), patches(0.0)
    for number in range(40):
        patch, name = mixed[number]
        if name != "drawn":
            assert torch.equal(patch, photographs[number][0])
