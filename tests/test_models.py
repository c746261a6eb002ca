"""Properties of the model and its parts."""

import numpy as np
import pytest
import torch
from conftest import lively_model

from agvae.models import AGVAE, GainUnit
from agvae.models.coding_order import Cell, WholeFeatures
from agvae.models.context import CONTEXTS
from agvae.models.quantization import QUANTIZERS, quantize_for_distortion, quantize_for_rate
from agvae.models.transforms import TRANSFORMS

CONTEXT_NAMES = sorted(CONTEXTS)


def random_gains(channels=5, levels=4):
    unit = GainUnit(channels, levels)
    with torch.no_grad():
        unit.log_gain.normal_()
        unit.log_inverse.normal_()
    return unit


def test_quality_s_gives_level_s_exactly():
    unit = random_gains()
    for level in range(4):
        assert torch.equal(unit.gain(level), unit.log_gain[level].exp())
        assert torch.equal(unit.inverse(float(level)), unit.log_inverse[level].exp())


def test_qualities_between_levels_are_geometric_means():
    unit = random_gains()
    for quality, share in ((0.5, 0.5), (2.25, 0.25)):
        s = int(quality)
        for interpolate in (unit.gain, unit.inverse):
            expected = interpolate(s) ** (1 - share) * interpolate(s + 1) ** share
            torch.testing.assert_close(interpolate(quality), expected)


def test_each_sample_gets_the_gain_of_its_own_quality():
    unit = random_gains()
    qualities = torch.tensor([0.0, 2.7, 3.0])
    assert torch.equal(unit.gain(qualities), torch.stack([unit.gain(q) for q in qualities]))


def test_qualities_outside_the_range_are_refused_and_in_tensors_clamped():
    unit = random_gains()
    for quality in (-0.1, 5.1, float("nan")):
        with pytest.raises(ValueError, match="from 0 to 5 for this model"):
            unit.gain(quality)
    assert torch.equal(unit.gain(torch.tensor([-1.0, 9.0])), unit.gain(torch.tensor([0.0, 5.0])))


def test_gains_double_with_each_level_past_the_last():
    unit, constant = random_gains(), GainUnit(3, 4, growth=1.0)
    for quality, factor in ((3.5, 2**0.5), (4, 2), (5, 4)):
        torch.testing.assert_close(unit.gain(quality), factor * unit.gain(3))
        torch.testing.assert_close(unit.inverse(quality), unit.inverse(3) / factor)
        assert torch.equal(constant.gain(quality), constant.gain(3))


def test_gains_start_at_the_root_of_lambda():
    unit = GainUnit(3, 3)
    unit.initialise([0.01, 0.04, 0.16])
    torch.testing.assert_close(unit.gain(torch.arange(3.0)), torch.tensor([0.5, 1, 2])[:, None].expand(3, 3))
    torch.testing.assert_close(unit.gain(1.3) * unit.inverse(1.3), torch.ones(3))


def test_gains_add_exactly_the_parameters_of_the_paper(tiny_config):
    def count(name, levels):
        tiny_config["gain"] = {"name": name, "levels": levels}
        return sum(p.numel() for p in AGVAE.from_config(tiny_config).parameters())

    M, N, n = tiny_config["transforms"]["M"], tiny_config["transforms"]["N"], 6
    assert count("cvr", n) - count("none", 1) == M * n * 2
    assert count("hcvr", n) - count("none", 1) == M * n * 2 + N * n * 2


@pytest.mark.parametrize("name", QUANTIZERS)
def test_training_quantisers_stay_within_half_a_step_and_pass_gradients(name):
    x = torch.linspace(-5, 5, 1000).reshape(2, 5, 10, 10).requires_grad_()
    for_rate = quantize_for_rate(x, name)
    for half in (for_rate, quantize_for_distortion(x, for_rate, name, torch.tensor(0.3))):
        assert (half - x).abs().max() <= 0.5 + 1e-6
        assert torch.autograd.grad(half.sum(), x, retain_graph=True)[0].eq(1).all()


def test_dither_is_one_per_picture():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4)
    u = quantize_for_rate(x, "universal")
    fraction = torch.remainder(u.flatten(1), 1)
    # The fractions are equal up to rounding, modulo 1.
    spread = (2 * torch.pi * (fraction - fraction[:, :1])).cos()
    assert spread.min() > 0.999
    assert (2 * torch.pi * (fraction[0, 0] - fraction[1, 0])).cos() < 0.999


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("context", CONTEXT_NAMES)
def test_noisy_bits_are_at_least_the_rounded_bits_on_average(tiny_config, name, context):
    tiny_config["quantizer"]["name"], tiny_config["context"]["name"] = name, context
    model = lively_model(tiny_config)
    torch.manual_seed(1)
    x = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        rounded = model(x, 2.0).bits.mean()
        noisy = torch.stack([model.train()(x, 2.0).bits.mean() for _ in range(6)]).mean()
    assert noisy >= 0.995 * rounded


@pytest.mark.parametrize("context", CONTEXT_NAMES)
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 7), (1, 9)])
def test_schedule_visits_every_element_once(tiny_config, context, size):
    tiny_config["context"]["name"] = context
    model = AGVAE.from_config(tiny_config)
    visits = torch.zeros(size[0] * size[1], model.M, dtype=torch.int)
    for cells in model.context.order.schedule(*size):
        for cell in cells:
            visits[cell.positions, cell.channels] += 1
    assert visits.eq(1).all()


def test_numbers_of_passes_are_those_of_the_design():
    height, width = 5, 7
    passes = {name: len(CONTEXTS[name](8, 3).order.schedule(height, width)) for name in CONTEXT_NAMES}
    assert passes == {"none": 1, "checkerboard": 2, "multiscale": width + 4 * (height - 1), "quadtree": 4}


def run_walk(model, psi, y):
    """The parameters (B, K, M, H, W) that the coding order gives if ŷ is y."""
    batch, _, height, width = y.shape
    found = torch.full((batch, height * width, model.context.K, model.M), torch.nan)

    def code(cell, raw):
        for k in range(model.context.K):
            found[:, :, k][:, cell.positions, cell.channels] = raw[:, :, k]
        return y.flatten(2).transpose(1, 2)[:, cell.positions, cell.channels]

    assert torch.equal(model.context.walk(WholeFeatures(model.context.project(psi)), code), y)
    return found.permute(0, 2, 3, 1).unflatten(-1, (height, width))


@pytest.mark.parametrize("context", CONTEXT_NAMES)
def test_training_and_coding_order_give_the_same_parameters(tiny_config, context):
    tiny_config["context"]["name"] = context
    model = lively_model(tiny_config)
    psi, y = torch.randn(2, model.context.hyper_channels, 6, 9), 3 * torch.randn(2, model.M, 6, 9)
    with torch.no_grad():
        parallel = model.context(psi, y).unflatten(1, (-1, model.M))
        torch.testing.assert_close(run_walk(model, psi, y), parallel, atol=1e-4, rtol=1e-4)


def test_wavefronts_give_what_raster_order_gives(tiny_config, monkeypatch):
    tiny_config["context"]["name"] = "multiscale"
    model = lively_model(tiny_config)
    psi, y = torch.randn(1, model.context.hyper_channels, 5, 6), 3 * torch.randn(1, model.M, 5, 6)
    with torch.no_grad():
        fronts = run_walk(model, psi, y)
        raster = [[Cell(slice(0, model.M), torch.tensor([position]))] for position in range(30)]
        monkeypatch.setattr(model.context.order, "schedule", lambda height, width: raster)
        torch.testing.assert_close(run_walk(model, psi, y), fronts, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("context", ["checkerboard", "multiscale", "quadtree"])
def test_context_matters(tiny_config, context):
    tiny_config["context"]["name"] = context
    model = lively_model(tiny_config)
    psi, y = torch.randn(1, model.context.hyper_channels, 6, 9), torch.randn(1, model.M, 6, 9)
    with torch.no_grad():
        assert not torch.allclose(model.context(psi, y), model.context(psi, -y), atol=1e-2)


def test_depthwise_transforms_start_as_an_orthonormal_block_transform(photo):
    x = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None, :, :128, :128] / 255
    errors = []
    with torch.no_grad():
        for N, M in ((96, 128), (96, 256), (192, 768), (200, 800)):
            transforms = TRANSFORMS["depthwise"](N=N, M=M, hyper_channels=8, blocks=1)
            errors.append((transforms.g_s(transforms.g_a(x)) - x).square().mean())
        # The transform is orthonormal: an error costs the same in every channel.
        y = torch.randn(2, 768, 4, 4)
        transforms = TRANSFORMS["depthwise"](N=192, M=768, hyper_channels=8, blocks=1)
        energy = (transforms.g_s(y) - 0.5).square().sum((1, 2, 3)) / y.square().sum((1, 2, 3))
    assert 10**-2.7 > errors[0] > errors[1]  # 27 dB from a sixth of the coefficients
    assert max(errors[2:]) < 1e-10
    torch.testing.assert_close(energy[0], energy[1], rtol=1e-4, atol=0)


def test_no_context_has_no_use_for_a_width(tiny_config):
    shapes = []
    for context in ({"name": "none"}, {"name": "none", "width": 4}):
        model = AGVAE.from_config(tiny_config | {"context": context})
        shapes.append({name: w.shape for name, w in model.state_dict().items()})
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("context", [name for name in CONTEXT_NAMES if name != "none"])
def test_a_context_can_be_narrower_than_the_latent(tiny_config, context):
    tiny_config["context"] = {"name": context, "width": 4}
    narrow = AGVAE.from_config(tiny_config)
    assert narrow.context.hyper_channels == 8
    tiny_config["context"]["width"] = tiny_config["transforms"]["M"]
    shapes = [{name: w.shape for name, w in narrow.state_dict().items()}]
    shapes.append({name: w.shape for name, w in AGVAE.from_config(tiny_config).state_dict().items()})
    del tiny_config["context"]["width"]
    shapes.append({name: w.shape for name, w in AGVAE.from_config(tiny_config).state_dict().items()})
    assert shapes[1] == shapes[2] != shapes[0]


@pytest.mark.parametrize("transforms", sorted(TRANSFORMS))
@pytest.mark.parametrize("context", CONTEXT_NAMES)
@pytest.mark.parametrize("entropy", ["symmetric", "half_mass", "two_piece"])
def test_every_combination_trains_every_parameter(tiny_config, transforms, context, entropy):
    tiny_config["transforms"]["name"] = transforms
    if transforms == "depthwise":
        tiny_config["transforms"]["blocks"] = 1
    tiny_config["context"]["name"] = context
    if entropy == "symmetric":
        tiny_config["entropy"] = {"name": "symmetric"}
    else:
        tiny_config["entropy"]["form"] = entropy
    model = lively_model(tiny_config).train()
    out = model(torch.rand(2, 3, 64, 128), torch.tensor([0.0, 1.5]))
    assert out.x_hat.shape == (2, 3, 64, 128)
    assert out.bits.shape == (2,)
    (out.bits.sum() + out.x_hat.square().sum() + model.aux_loss()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_optimiser_groups_are_disjoint_and_complete(tiny_model):
    network, quantiles = tiny_model.network_parameters(), tiny_model.quantile_parameters()
    ids = [id(p) for p in [*network, *quantiles]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in tiny_model.parameters()}


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("transforms", {"name": "vgg"}, "minnen2018, residual, depthwise"),
        ("gain", {"name": "none", "levels": 3}, "gain.levels=3 does not fit gain.name=none"),
        ("gain", {"name": "hcvr", "levels": 0}, "gain.levels=0 does not fit"),
        ("entropy", {"name": "asymmetric", "form": "laplace"}, "half_mass, two_piece"),
        ("context", {"name": "transformer"}, "none, checkerboard, multiscale, quadtree"),
        ("context", {"name": "quadtree", "width": 0}, "context.width must be a positive integer, not 0"),
        ("quantizer", {"name": "vector"}, "universal, noise, mixed"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(tiny_config, part, change, message):
    tiny_config[part].update(change)
    with pytest.raises(ValueError, match=message):
        AGVAE.from_config(tiny_config)


def test_input_that_the_stride_does_not_divide_is_refused(tiny_model):
    with pytest.raises(ValueError, match="multiples of 64"):
        tiny_model(torch.rand(1, 3, 64, 100), 0.0)


def test_symbols_of_z_stay_where_the_prior_has_its_mass(tiny_model):
    low, high = tiny_model.prior.support(2.0**-10)
    z_bar = torch.linspace(-1e6, 1e6, 2 * tiny_model.N).view(2, tiny_model.N, 1, 1)
    symbols = tiny_model.hyper_symbols(z_bar)
    assert ((symbols >= low) & (symbols <= high)).all()
    inside = (low + (high - low) * torch.rand(2, tiny_model.N, 1, 1)).round()
    assert torch.equal(tiny_model.hyper_symbols(inside + tiny_model.prior.medians), inside)
