"""The paper's equations 1 and 2 against a count of the model, and the costs of its parts."""

import pytest
import torch

from agvae.evaluation.complexity import DECODER, ENCODER, GAIN_UNITS, Cost, gain_costs, part_costs, total
from agvae.models import AGVAE
from agvae.models.context import CONTEXTS

TRANSFORMS = [
    {"name": "minnen2018", "N": 8, "M": 12},
    {"name": "residual", "N": 8, "M": 12},
    {"name": "depthwise", "N": 8, "M": 12, "blocks": 1},
]
SIZE = (130, 64)  # padded to 192×64


@pytest.mark.parametrize("transforms", TRANSFORMS, ids=lambda transforms: transforms["name"])
@pytest.mark.parametrize("gain", ["cvr", "hcvr"])
@pytest.mark.parametrize("levels", [1, 6])
def test_counted_parameters_and_flops_of_the_gain_units_are_those_of_the_equations(
    tiny_config, transforms, gain, levels
):
    tiny_config |= {"transforms": transforms, "gain": {"name": gain, "levels": levels}}
    y, z = 12 * (192 // 16) * (64 // 16), 8 * (192 // 64) * (64 // 64)
    expected = (12 * levels * 2, y * 2) if gain == "cvr" else ((12 + 8) * levels * 2, (y + z) * 2)
    counted = total(part_costs(tiny_config, *SIZE), GAIN_UNITS)
    assert counted == gain_costs(tiny_config, *SIZE) == Cost(*expected, 0)


def test_a_fixed_rate_model_pays_for_no_gain(tiny_config):
    tiny_config["gain"] = {"name": "none", "levels": 1}
    assert not part_costs(tiny_config, *SIZE).keys() & set(GAIN_UNITS)
    assert total(part_costs(tiny_config, *SIZE), GAIN_UNITS) == gain_costs(tiny_config, *SIZE) == Cost(0, 0, 0)


@pytest.mark.parametrize("context", CONTEXTS)
def test_parts_hold_every_parameter_once(tiny_config, context):
    tiny_config["context"] = {"name": context}
    model = AGVAE.from_config(tiny_config)
    costs = part_costs(tiny_config, *SIZE)
    assert total(costs).parameters == sum(p.numel() for p in model.parameters())
    assert set(ENCODER) | set(DECODER) == costs.keys()


def test_flops_of_convolutions_are_twice_the_products_written_out(tiny_config):
    # h_a of minnen2018 on a 12 × 4 map: a 3×3 layer from 12 to 8 channels, then two 5×5 layers of stride 2 from 8 to 8.
    products = 12 * 4 * 9 * 12 * 8 + 6 * 2 * 25 * 8 * 8 + 3 * 1 * 25 * 8 * 8
    h_a = part_costs(tiny_config, 192, 64)["h_a"]
    assert (h_a.flops, h_a.macs) == (2 * products, products)


def test_flops_are_in_proportion_to_the_picture(tiny_config):
    for context in ("none", "checkerboard", "quadtree"):
        tiny_config["context"] = {"name": context}
        small, large = (part_costs(tiny_config, side, 128) for side in (64, 128))
        assert {name: 2 * cost.flops for name, cost in small.items()} == {n: c.flops for n, c in large.items()}


def test_counting_takes_no_memory_for_pictures_or_weights(tiny_config):
    tiny_config["transforms"] = {"name": "residual", "N": 1024, "M": 1024}  # 2 GB of weights
    before = torch.get_rng_state()
    assert total(part_costs(tiny_config, 2**14, 2**14)).macs > 10**15
    assert torch.equal(before, torch.get_rng_state())
