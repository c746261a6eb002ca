"""The 5×5 convolutions with fewer multiplications, beside the plain ones."""

import pytest
import torch
import torch.nn.functional as F

from agvae.models import transforms, winograd

SIZES = [(1, 4, 4), (2, 5, 11), (1, 12, 9), (1, 1, 3)]
"""Pictures, height and width: whole tiles, tiles that go past the border, a tile inside, less than one."""


def layers(inputs, outputs):
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
    weight, bias = layers(6, 10)
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
    weight, _ = layers(8, 8)
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
    parts = transforms.minnen2018(128, 128, 8)
    taken = []

    def count(kind):
        run = getattr(winograd, kind)
        monkeypatch.setattr(winograd, kind, lambda *arguments: taken.append(kind) or run(*arguments))

    count("strided"), count("transposed")
    with torch.no_grad():
        x = torch.rand(1, 3, 192, 160)
        y = parts.g_a(x)
        x_hat = parts.g_s(y)
        assert taken == ["strided", "transposed"]  # the largest maps; the others are too small to gain by it
        monkeypatch.setattr(transforms, "_takes_winograd", lambda *_: False)
        torch.testing.assert_close(y, parts.g_a(x), atol=1e-4, rtol=0)
        torch.testing.assert_close(x_hat, parts.g_s(y), atol=1e-4, rtol=0)
        assert len(taken) == 2


def test_autocast_and_other_types_go_the_plain_way():
    layer = transforms.Down(128, 128)
    x = torch.rand(1, 128, 80, 80)
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        assert layer.double()(x.double()).dtype == torch.float64
