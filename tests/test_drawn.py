"""Drawn training pictures: a pure function of the seed, of every kind, mixed in at the share that was asked for."""

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


def patches(share, seed=0):
    return Patches(OneGreyImage(), 64, SampleStream(1, seed), share)


@pytest.mark.parametrize("kind", drawn._KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("side", [64, 192])
def test_a_drawn_picture_follows_from_its_seed(kind, side):
    first, again, other = (kind(np.random.default_rng(seed), side) for seed in (1, 1, 2))
    assert first.shape == (side, side, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_share_of_drawn_patches_is_the_one_asked_for():
    names = [patches(0.25)[number][1] for number in range(800)]
    assert 0.2 < names.count("drawn") / len(names) < 0.3
    assert {patches(0.0)[number][1] for number in range(50)} == {"grey.png"}
    assert {patches(1.0)[number][1] for number in range(20)} == {"drawn"}


def test_sample_numbers_alone_decide_what_is_drawn():
    """So that a resumed run, and any number of processes, see the same patches."""
    data, later = patches(0.5), patches(0.5)
    wanted = [data[number][0] for number in range(40)]
    for number in reversed(range(40)):
        assert torch.equal(later[number][0], wanted[number])
    assert any(not torch.equal(patches(0.5, seed=1)[n][0], wanted[n]) for n in range(40))


def test_photographs_are_the_same_with_and_without_drawn_ones():
    for number in range(40):
        patch, name = patches(0.5)[number]
        if name != "drawn":
            assert torch.equal(patch, patches(0.0)[number][0])
