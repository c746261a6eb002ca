"""Kernels equal the plain formulas of their layers, and run only where they are valid."""

import pytest
import torch
import torch.nn.functional as F

from agvae.models import kernels, layers
from agvae.models.exact import ExactConv
from agvae.models.fixed_point import LIMIT
from agvae.models.kernels import depthwise, gdn, phases, winograd
from agvae.models.transforms import minnen2018

SIZES = [(1, 4, 4), (2, 5, 11), (1, 12, 9), (1, 1, 3)]
"""Pictures, height and width: whole tiles, tiles across the border, an inner tile, less than one tile."""


def parameters(inputs, outputs):
    torch.manual_seed(0)
    weight = torch.randn(outputs, inputs, 5, 5) / (25 * inputs) ** 0.5
    return weight.requires_grad_(), torch.randn(outputs, requires_grad=True)


def plain_strided(x, weight, bias):
    return F.conv2d(x, weight, bias, stride=2, padding=2)


def plain_transposed(x, weight, bias):
    return F.conv_transpose2d(x, weight, bias, stride=2, padding=2, output_padding=1)


@pytest.mark.parametrize(("batch", "height", "width"), SIZES)
@pytest.mark.parametrize("kind", ["strided", "transposed"])
def test_results_and_gradients_are_those_of_the_plain_convolution(kind, batch, height, width, monkeypatch):
    monkeypatch.setattr(winograd, "TILES", 3)
    weight, bias = parameters(6, 10)
    if kind == "strided":
        x, ours, plain = torch.randn(batch, 6, 2 * height, 2 * width), winograd.strided, plain_strided
    else:
        x, ours, plain = torch.randn(batch, 10, height, width), winograd.transposed, plain_transposed
        bias = torch.randn(6, requires_grad=True)
    arguments = x.requires_grad_(), weight, bias
    found, expected = ours(*arguments), plain(*(argument.double() for argument in arguments))
    torch.testing.assert_close(found.double(), expected, atol=3e-5, rtol=0)
    grad = torch.randn_like(found)
    gradients = torch.autograd.grad(found, arguments, grad)
    exact = torch.autograd.grad(expected, arguments, grad.double())
    for one, other in zip(gradients, exact, strict=True):
        torch.testing.assert_close(one, other, atol=3e-5 * other.abs().max().item(), rtol=0)


@pytest.mark.parametrize("kind", ["strided", "transposed"])
def test_threads_change_nothing(kind):
    weight, _ = parameters(8, 8)
    x = torch.randn(2, 8, 36, 20)
    run = getattr(winograd, kind)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(run(x, weight, None))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*results, atol=1e-6, rtol=1e-6)


def test_transforms_give_the_same_with_it_and_without(monkeypatch):
    torch.manual_seed(0)
    parts = minnen2018(128, 128, 8)
    taken = []

    def count(kind):
        run = getattr(winograd, kind)
        monkeypatch.setattr(winograd, kind, lambda *arguments: taken.append(kind) or run(*arguments))

    count("strided"), count("transposed")
    with torch.no_grad():
        x = torch.rand(1, 3, 192, 160)
        y = parts.g_a(x)
        x_hat = parts.g_s(y)
        assert taken == ["strided", "transposed"]  # only for the largest maps, because the others are too small
        monkeypatch.setattr(winograd, "pays", lambda *_: False)
        torch.testing.assert_close(y, parts.g_a(x), atol=1e-4, rtol=0)
        torch.testing.assert_close(x_hat, parts.g_s(y), atol=1e-4, rtol=0)
        assert len(taken) == 2


def test_an_upsampling_to_few_channels_is_its_transposed_convolution():
    weight, _ = parameters(3, 8)
    x, bias = torch.randn(2, 8, 5, 7, requires_grad=True), torch.randn(3, requires_grad=True)
    found, expected = phases.transposed(x, weight, bias), plain_transposed(x, weight, bias)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(found)
    gradients = (torch.autograd.grad(y, (x, weight, bias), grad) for y in (found, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn_in_runs_is_its_definition_and_has_its_gradients(inverse, monkeypatch):
    monkeypatch.setattr(gdn, "RUN", 7)  # the last run of the 2·4·3 positions is shorter
    torch.manual_seed(0)
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64, requires_grad=True)
    beta, gamma = torch.rand(5, dtype=torch.float64) + 0.5, torch.rand(5, 5, dtype=torch.float64)
    arguments = (x, beta.requires_grad_(), gamma.requires_grad_(), inverse)
    norm = F.conv2d(x**2, gamma[:, :, None, None], beta)
    expected = x * norm.pow(0.5 if inverse else -0.5)
    torch.testing.assert_close(gdn.normalise(*arguments), expected)
    assert torch.autograd.gradcheck(gdn.normalise, arguments)
    with torch.no_grad():
        torch.testing.assert_close(gdn.normalise(x.clone(), *arguments[1:]), expected)


@pytest.mark.parametrize("shape", [(2, 12, 5, 9), (1, 12, 1, 1)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_depthwise_blocks_in_runs_are_their_definition(shape, channels_last, monkeypatch):
    monkeypatch.setattr(depthwise, "RUN", 7)
    torch.manual_seed(0)
    block = layers.DepthwiseBlock(12)
    x = 20 * torch.randn(shape)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    given, expected = x.clone(), block(x)  # with gradients, the block computes its definition
    with torch.no_grad():
        found = block(x)
    torch.testing.assert_close(found, expected.detach(), atol=1e-4, rtol=1e-5)
    assert (found.abs() == layers.STREAM_BOUND).any()
    assert torch.equal(x, given)


@torch.no_grad()
@pytest.mark.parametrize(("batch", "height", "width"), SIZES)
def test_fewer_exact_products_give_the_same_to_the_last_bit(batch, height, width, monkeypatch):
    monkeypatch.setattr(kernels.exact, "TILES", 4)
    torch.manual_seed(0)
    layer = ExactConv("layer", torch.nn.Conv2d(20, 6, 3, padding=1), 0.01)
    edge = int(min(layer.fewer.limit, LIMIT)) - 1
    x = torch.randint(-edge, edge + 1, (batch, 20, height, width)).float()
    x[..., 0, 0] = edge * torch.ones(20).copysign(torch.randn(20))  # the largest sum that is allowed
    assert layer.fewer.usable(x)
    assert not layer.fewer.usable(x + layer.fewer.limit)
    found = layer(x)
    layer.fewer = None
    assert torch.equal(found, layer(x))


LAYERS = {
    "gdn": lambda: layers.GDN(128),
    "down": lambda: layers.Down(128, 128),
    "up": lambda: layers.Up(128, 128),
    "depthwise": lambda: layers.DepthwiseBlock(128),
}


@pytest.mark.parametrize("name", LAYERS)
def test_autocast_other_types_and_the_compiler_get_the_formula(name, monkeypatch):
    torch.manual_seed(0)
    layer, x = LAYERS[name](), torch.rand(1, 128, 80, 80)
    with torch.no_grad():
        expected = layer(x.clone())

    def refuse(*_):
        raise AssertionError("a kernel was used")

    for module, kernel in ((gdn, "normalise"), (winograd, "strided"), (winograd, "transposed"), (depthwise, "block")):
        monkeypatch.setattr(module, kernel, refuse)
    with torch.no_grad():
        with pytest.raises(AssertionError, match="a kernel was used"):
            layer(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(layer(x).float(), expected, atol=0.1, rtol=0.1)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)
        monkeypatch.undo()
        double = layer.double()(x.double())
    torch.testing.assert_close(double.float(), expected, atol=1e-4, rtol=1e-4)


def test_a_compiled_network_gives_what_it_gives_uncompiled():
    torch.manual_seed(0)
    block = layers.DepthwiseBlock(16)
    x = torch.rand(1, 16, 8, 8)
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), block(x))
