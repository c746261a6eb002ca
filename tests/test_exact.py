"""Everything that parsing a stream depends on has the same bits, however and wherever it is computed.

Run as a program, this file is another machine: it decodes the files of one folder, and writes its own to another."""

import copy
import hashlib
import os
import subprocess
import sys
from itertools import product
from math import gcd
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, lively_model
from PIL import Image
from torch import nn

from agvae.codec import Codec, model_file
from agvae.models import AGVAE, coding_order
from agvae.models.coding_order import Cell, WholeFeatures
from agvae.models.context import CONTEXTS, Dense
from agvae.models.exact import ExactConv, ExactDense, _convert, exact
from agvae.models.exact_layers import table_of
from agvae.models.fixed_point import LIMIT, ONE, InexactError, exp, finish_, is_exact
from agvae.models.transforms import TRANSFORMS

CONTEXT_NAMES = sorted(CONTEXTS)
ENTROPIES = {"symmetric": {"name": "symmetric"}, "asymmetric": {"name": "asymmetric", "form": "half_mass"}}
QUALITIES = (0.3, 1.7)

ENVIRONMENTS = {
    "no vector instructions": {"ATEN_CPU_CAPABILITY": "default", "DNNL_MAX_CPU_ISA": "SSE41", "OMP_NUM_THREADS": "1"},
    "AVX2, two threads": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "DNNL_MAX_CPU_ISA": "AVX2",
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",  # on busy cores, spinning threads would take a minute
    },
    "AVX-512": {"ATEN_CPU_CAPABILITY": "avx512", "OMP_NUM_THREADS": "1"},
    # Matrix products are MKL's, which ignores the variables of the other environments.
    "MKL of AVX2": {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "OMP_NUM_THREADS": "1"},
}
if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
    del ENVIRONMENTS["AVX-512"]  # torch would obey the variable and die of an illegal instruction


def configuration(transforms="minnen2018", context="none", entropy="asymmetric"):
    blocks = {"blocks": 1} if transforms == "depthwise" else {}
    return TINY | {
        "transforms": {"name": transforms, "N": 8, "M": 12} | blocks,
        "entropy": ENTROPIES[entropy],
        "context": {"name": context},
    }


def parse(model: AGVAE, z_symbols: torch.Tensor, quality: float) -> torch.Tensor:
    """All entropy parameters (K, B, H·W, M) that a decoder computes while it reads some fixed symbols."""
    symbols = torch.arange(z_symbols[0, 0].numel() * 16 * model.M).view(-1, model.M) * 7919 % 13 - 6.0
    found = torch.full((3, len(z_symbols), *symbols.shape), torch.nan)

    def read(cell, parameters):
        for values, here in zip(found, parameters, strict=True):
            values[:, cell.positions, cell.channels] = here
        return symbols[cell.positions, cell.channels].expand_as(parameters.mu)

    with torch.inference_mode():
        features = model.hyper_features(z_symbols + model.prior.medians, quality)
        model.decode(WholeFeatures(features), read)
    return found


def some_z(batch=1, height=3, width=5):
    return torch.randint(-9, 10, (batch, 8, height, width), generator=torch.Generator().manual_seed(0)).float()


def digest(model: AGVAE) -> str:
    """The hash of the parameters of a stream at several qualities."""
    found = torch.stack([parse(model, some_z(), quality) for quality in QUALITIES])
    return hashlib.sha256(found.numpy().tobytes()).hexdigest()


@pytest.fixture(scope="module", params=CONTEXT_NAMES)
def exact_model(request):
    return exact(lively_model(configuration(context=request.param)))


def same(a, b):
    return not a.isnan().any() and torch.equal(a, b)


def test_threads_change_no_bit(exact_model):
    expected, before = parse(exact_model, some_z(1, 6, 10), 1.2), torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert same(parse(exact_model, some_z(1, 6, 10), 1.2), expected)
    finally:
        torch.set_num_threads(before)


def test_memory_format_and_batch_change_no_bit(exact_model):
    z = some_z(3)
    together = parse(exact_model, z, 1.2)
    assert same(parse(exact_model, z.contiguous(memory_format=torch.channels_last), 1.2), together)
    assert same(torch.cat([parse(exact_model, one[None], 1.2) for one in z], 1), together)


@pytest.mark.parametrize("chunk", [1, 7])
def test_pieces_change_no_bit(exact_model, monkeypatch, chunk):
    expected = parse(exact_model, some_z(), 1.2)
    monkeypatch.setattr(coding_order, "CHUNK", chunk)
    monkeypatch.setattr("agvae.models.exact.CHUNK", chunk)
    assert same(parse(exact_model, some_z(), 1.2), expected)


@pytest.mark.parametrize("transforms", TRANSFORMS)
def test_tiles_of_h_s_change_no_bit(transforms):
    model = exact(lively_model(configuration(transforms)))
    z, halo = some_z(1, 3, 20), model.reach.h_s
    with torch.inference_mode():
        whole, part = model.h_s(z), model.h_s(z[..., 9 - halo : 11 + halo])
    assert torch.equal(part[..., 4 * halo : 4 * (halo + 2)], whole[..., 36:44])


def test_wavefronts_give_the_bits_of_raster_order(monkeypatch):
    model = exact(lively_model(configuration(context="multiscale")))
    fronts = parse(model, some_z(1, 2, 3), 1.2)
    raster = [[Cell(slice(0, model.M), torch.tensor([position]))] for position in range(8 * 12)]
    monkeypatch.setattr(model.context.order, "schedule", lambda height, width: raster)
    assert same(parse(model, some_z(1, 2, 3), 1.2), fronts)


def write_models(folder: Path) -> None:
    """Save a model of every kind for all processes. Models made anew would differ, because exponentials differ."""
    for name in CONTEXT_NAMES:
        model_file.from_model(lively_model(configuration("depthwise", name))).save(folder / f"{name}.safetensors")
    for names in product(TRANSFORMS, CONTEXT_NAMES, ENTROPIES):
        torch.save(lively_model(configuration(*names)).state_dict(), folder / f"{'-'.join(names)}.pt")


def codecs(models: Path) -> dict[str, Codec]:
    return {name: Codec.load(models / f"{name}.safetensors") for name in CONTEXT_NAMES}


def write_files(models: Path, folder: Path) -> None:
    image = Image.open(models / "photo.png")
    for name, codec in codecs(models).items():
        for quality in QUALITIES:
            data = codec.compress(image, quality=quality, lossless=False)
            (folder / f"{name}_{quality}.agv").write_bytes(data)
            codec.decompress(data).save(folder / f"{name}_{quality}.png")


def differences(models: Path, folder: Path) -> list[int]:
    """Decode the files of a folder. Returns the largest difference of each from the picture beside it, in levels."""
    found = []
    for name, codec in codecs(models).items():
        for path in sorted(folder.glob(f"{name}_*.agv")):
            decoded, expected = codec.decompress(path.read_bytes()), Image.open(path.with_suffix(".png"))
            found.append(np.abs(np.array(decoded).astype(int) - np.array(expected)).max().item())
    return found


def digests(models: Path) -> list[str]:
    found = []
    for path in sorted(models.glob("*.pt")):
        model = AGVAE.from_config(configuration(*path.stem.split("-")))
        model.load_state_dict(torch.load(path, weights_only=True))
        found.append(digest(exact(model)))
    return found


def other_process(models: Path, here: Path, there: Path) -> None:
    """Decode the files of `here`, write files to `there`, and print a line of differences and a line of digests."""
    write_files(models, there)
    print(*differences(models, here))
    print(*digests(models))


@pytest.fixture(scope="module")
def models(tmp_path_factory, photo) -> Path:
    """The folder of the models and of the photo to code."""
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    photo.crop((150, 20, 350, 150)).save(folder / "photo.png")
    return folder


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory, models):
    """The folder and the output of a process in each environment. It has decoded the files of this process."""
    here = tmp_path_factory.mktemp("here")
    write_files(models, here)
    running = {}
    for name, variables in ENVIRONMENTS.items():
        there = tmp_path_factory.mktemp("there")
        running[name] = (
            there,
            subprocess.Popen(
                [sys.executable, __file__, models, here, there],
                env=os.environ | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ),
        )
    return {name: (there, *process.communicate(timeout=300)) for name, (there, process) in running.items()}


@pytest.fixture(scope="module")
def digests_here(models):
    return digests(models)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_files_travel_between_machines(elsewhere, models, digests_here, name):
    there, output, errors = elsewhere[name]
    assert output.count("\n") == 2, errors
    decoded_there, digests_there = (line.split() for line in output.splitlines())
    # A checksum covers all symbols, so a file decodes only if all its symbols are right.
    decoded_there, decoded_here = [int(value) for value in decoded_there], differences(models, there)
    assert len(decoded_there) == len(decoded_here) == len(CONTEXT_NAMES) * len(QUALITIES)
    assert max(decoded_there + decoded_here) <= 1
    assert digests_there == digests_here


@pytest.mark.parametrize("transforms", TRANSFORMS)
@pytest.mark.parametrize("context", CONTEXT_NAMES)
@pytest.mark.parametrize("entropy", ENTROPIES)
def test_rounding_costs_less_than_a_thousandth_of_the_bits(photo, transforms, context, entropy):
    model = lively_model(configuration(transforms, context, entropy))
    x = torch.from_numpy(np.array(photo.crop((100, 0, 356, 192)))).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        for quality in QUALITIES:
            bits = model(x, quality).bits.item()
            assert exact(model)(x, quality).bits.item() == pytest.approx(bits, rel=1e-3)


CONVOLUTIONS = [
    nn.Conv2d(5, 7, 1),
    nn.Conv2d(5, 7, 3, padding=1),
    nn.Conv2d(5, 7, 5, padding=2),
    nn.ConvTranspose2d(5, 7, 5, 2, padding=2, output_padding=1),
    nn.ConvTranspose2d(5, 7, 3, 2, padding=1, output_padding=1),
    nn.ConvTranspose2d(5, 7, 3, 1, padding=1),
]


@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (4, 9), (11, 2)])
def test_convolutions_are_torchs_on_rounded_weights(conv, size, monkeypatch):
    monkeypatch.setattr("agvae.models.exact.CHUNK", 20)
    layer = ExactConv("layer", conv, slope=0.01)
    kernel = layer.weight.unflatten(0, conv.kernel_size)
    conv = nn.modules.conv.__dict__[type(conv).__name__](
        5, 7, conv.kernel_size, conv.stride, conv.padding, dtype=torch.float64,
        **({"output_padding": conv.output_padding} if layer.transposed else {}),
    )  # fmt: skip
    conv.weight.data = kernel.permute(2, 3, 0, 1) if layer.transposed else kernel.permute(3, 2, 0, 1)
    conv.bias.data = layer.bias
    x = torch.randint(-(2**20), 2**20, (2, 5, *size))
    with torch.no_grad():
        assert torch.equal(layer(x.float()).double(), finish_(conv(x.double()), 0.01))


ACTIVATIONS = [
    nn.ReLU(),
    nn.LeakyReLU(0.2),
    nn.GELU(),
    nn.GELU(approximate="tanh"),
    nn.SiLU(),
    nn.Hardtanh(-0.7, 3.3),
    nn.ReLU6(),
]


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=str)
def test_activations_are_the_functions_to_a_whole_unit(layer):
    (form,) = _convert("h_s", nn.Sequential(layer))
    x = torch.cat([torch.arange(-20 * ONE, 20 * ONE, 7), torch.tensor([-LIMIT, LIMIT, 0.0])])
    expected = layer(x.double() / ONE) * ONE
    found = form(x.float())
    assert found.dtype == torch.float32
    assert torch.equal(found, found.round())
    assert (found.double() - expected).abs().max() <= 0.5 + 1e-6


def test_tables_are_the_same_everywhere():
    """They need only additions, multiplications and divisions. A machine with other tables would decode noise."""
    digests = {
        str(layer): hashlib.sha256(table_of(layer).astype("<i4").tobytes()).hexdigest()[:16]
        for layer in ACTIVATIONS
        if isinstance(layer, nn.GELU | nn.SiLU)
    }
    assert digests == {
        "GELU(approximate='none')": "ec6b2087bdf5ba33",
        "GELU(approximate='tanh')": "59050c176218792a",
        "SiLU()": "a81d75e46ada87d4",
    }


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_depthwise_convolutions_are_torchs_on_rounded_weights(kernel):
    conv = nn.Conv2d(6, 6, kernel, padding=kernel // 2, groups=6)
    (layer,) = _convert("h_s", nn.Sequential(conv, nn.ReLU()))
    conv = copy.deepcopy(conv).double()
    conv.weight.data = layer.weight.t().reshape(conv.weight.shape).clone()
    conv.bias.data = layer.bias
    x = torch.randint(-(2**20), 2**20, (2, 6, 5, 9))
    with torch.no_grad():
        assert torch.equal(layer(x.float()).double(), finish_(conv(x.double()), 0.0))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Tanh(),
        nn.Conv2d(8, 8, 4, padding=1),
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(8, 8, 3, 2, padding=1),
        nn.BatchNorm2d(8),
    ],
    ids=str,
)
def test_layers_without_an_exact_form_are_refused_in_a_line_that_lists_those_with_one(layer):
    with pytest.raises(InexactError, match=r"h_s\.1 has no exact form.*may be made of Sequential.*GELU") as refused:
        _convert("h_s", nn.Sequential(nn.Identity(), layer))
    assert "\n" not in str(refused.value)


def whole(values: torch.Tensor) -> list[int]:
    """Weights as integers in units of 2^−24."""
    return [int(value) for value in (values.double().flatten() * 2.0**24).tolist()]


@pytest.mark.parametrize("size", [1e-3, 0.1, 30])
@pytest.mark.parametrize("given", [0, LIMIT])
def test_the_largest_sum_that_inputs_can_make_is_exact(size, given):
    torch.manual_seed(0)
    layer = ExactDense("layer", Dense(size * torch.randn(300, 4), size * torch.randn(4)), given)
    for weight, bias in zip(layer.weight.t(), layer.bias, strict=True):
        inputs = LIMIT * weight.sign() * (1 if bias >= 0 else -1)
        terms = [w * int(x) for w, x in zip(whole(weight), inputs.tolist(), strict=True)]
        terms += [whole(bias)[0], int(torch.sign(bias) * given) << 24]
        assert abs(sum(terms)) < 2**53 * gcd(*terms)
        # Every order of the sum, on every machine, gives these integers.
        for order in (torch.arange(300), torch.randperm(300)):
            product = torch.dot(weight[order], inputs[order]) + bias + torch.sign(bias) * given
            assert int(product * 2**24) == sum(terms)


def test_float64_that_rounds_is_found_out(monkeypatch):
    assert is_exact("cpu")
    product = torch.addmm
    monkeypatch.setattr("torch.addmm", lambda bias, a, b: product(bias, a, b) + 2)
    assert not is_exact("cpu")
    monkeypatch.setattr("torch.addmm", lambda bias, a, b: product(bias.float(), a.float(), b.float()).double())
    assert not is_exact("cpu")


def test_weights_keep_the_most_bits_that_sums_allow():
    for size, fraction in ((1e-3, 24), (100, 13)):
        layer = ExactDense("layer", Dense(torch.full((100, 1), size / 3), torch.zeros(1)), 0)
        assert (layer.weight - size / 3).abs().max() <= 0.5**fraction


@pytest.mark.parametrize(
    ("context", "layer", "name"),
    [
        ("none", "h_s.2", "h_s.2"),
        ("checkerboard", "context.from_hyper", "context.from_hyper"),
        ("checkerboard", "context.convolution", "context.convolutions"),
        ("multiscale", "context.convolutions.1", "context.convolutions"),
        ("quadtree", "context.from_context", "context.from_context"),
        ("quadtree", "context.head.3", "context.head.3"),
    ],
)
@pytest.mark.parametrize("factor", [1e9, float("inf")])
def test_weights_too_large_to_be_exact_are_refused_by_name(context, layer, name, factor):
    model = lively_model(configuration(context=context))
    model.get_submodule(layer).weight.data[0] *= factor
    with pytest.raises(InexactError, match=f"{name}: its weights are too large"):
        exact(model)
    with pytest.raises(model_file.ModelError, match=r"too large|not finite"):
        model_file.from_model(model)


def test_parameters_are_fixed_point_numbers(exact_model):
    found = parse(exact_model, 1000 * some_z(), 1.2)
    assert found.dtype == torch.float32
    means = found[0].double() * ONE
    assert torch.equal(means, means.round())
    assert means.abs().max() <= LIMIT


def test_exponential_is_the_librarys_to_fourteen_digits_and_calls_none():
    x = np.linspace(-30, 30, 100001)
    assert np.abs(exp(x) / np.exp(x) - 1).max() < 1e-14
    assert {"floor", "ones_like", "ldexp"} == set(exp.__code__.co_names) & set(np.__dict__) - {"astype", "int64"}


def test_gains_of_the_hyperprior_are_the_models_own():
    model = lively_model(configuration())
    model.hyper_gain.log_inverse.data.normal_()
    for quality in (0, 0.5, 1.2998046875, 2, 3.25, 4):
        gain = exact(model).hyper_gain.inverse(quality)
        assert torch.equal(gain * ONE, (gain * ONE).round())
        torch.testing.assert_close(gain.float(), model.hyper_gain.inverse(quality), rtol=1e-5, atol=1 / ONE)


if __name__ == "__main__":
    other_process(*map(Path, sys.argv[1:]))
