"""The reference decoder, which shares no code with the package, reads every file as the package does."""

import ast
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference_decoder as reference
import torch
from conftest import lively_model
from PIL import Image
from test_golden import VERSION_2

from agvae import shipped
from agvae.codec import Codec, model_file
from agvae.models.coding_order import WholeFeatures

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden"
GOLDEN_CASES = sorted(path.stem for path in GOLDEN.glob("*.agv"))
SHIPPED = shipped.names()


def golden(case):
    """The bytes of a golden file, and its model, which is None for a lossless one."""
    name = VERSION_2.get(case, {"model": case}).get("model")
    model = name and reference.read_model(GOLDEN / f"{name}.safetensors")
    return (GOLDEN / f"{case}.agv").read_bytes(), model


def largest_difference(image, other):
    return np.abs(np.array(image).astype(int) - np.array(other)).max()


def test_it_imports_no_code_of_the_package():
    tree = ast.parse((TESTS / "reference_decoder.py").read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in modules} - sys.stdlib_module_names == {"numpy", "PIL"}


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden_files_decode_to_the_same_symbols_and_pictures(case):
    data, model = golden(case)
    expected = np.load(GOLDEN / f"{case}.npz")
    if model is not None:
        parsed = reference.parse(data, model)
        assert np.array_equal(parsed.z, expected["z"])
        assert np.array_equal(parsed.y, expected["y"])
    if "pixels" in expected:
        image = reference.decode(data, model)
        assert image.mode == VERSION_2.get(case, {"mode": image.mode})["mode"]
        assert largest_difference(image, expected["pixels"]) <= (0 if model is None else 1)


@torch.inference_mode()
def latent_by_torch(file, parsed):
    """ŷ as the package computes it from the symbols of a parsed file, (H/16, W/16, M)."""
    model, header = file.build(), parsed.header
    height, width = -(-header.height // 64), -(-header.width // 64)
    z = torch.from_numpy(parsed.z.astype(np.float32)).view(1, model.N, height, width)
    symbols, position = torch.from_numpy(parsed.y.astype(np.float32)), 0

    def read(cell, parameters):
        nonlocal position
        position += parameters.mu.numel()
        return symbols[position - parameters.mu.numel() : position].view_as(parameters.mu)

    features = model.hyper_features(z + model.prior.medians, torch.tensor(header.quality, dtype=torch.float64))
    return model.decode(WholeFeatures(features), read)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("context", ["none", "checkerboard", "multiscale", "quadtree"])
@pytest.mark.parametrize(
    ("transforms", "entropy"),
    [
        ({"name": "minnen2018"}, {"name": "symmetric"}),
        ({"name": "residual"}, {"name": "asymmetric", "form": "half_mass", "tail": 0.1}),
        ({"name": "depthwise", "blocks": 1, "H": 5}, {"name": "asymmetric", "form": "two_piece"}),
    ],
    ids=["minnen2018", "residual", "depthwise"],
)
def test_latents_are_equal_to_the_last_bit(tmp_path, photo, context, transforms, entropy):
    config = {
        "transforms": transforms | {"N": 5, "M": 12},
        "gain": {"name": "hcvr", "levels": 3},
        "entropy": entropy,
        "context": {"name": context, "width": 7} if context != "none" else {"name": context},
        "quantizer": {"name": "universal"},
    }
    model = lively_model(config)
    with torch.no_grad():
        # Large weights, so that the number of bits differs between layers and kinds of cells.
        for network in (model.h_s, model.context):
            for name, weight in network.named_parameters():
                if weight.ndim > 1 and not name.startswith(("from_context", "head")):
                    weight *= 25
        if context != "none":
            # This sum exceeds 24 bits only with the features that are added to it.
            row = model.context.from_context.weight[0]
            row *= 63.5 / row.abs().sum()
        # These layers amplify, but few values should reach the limit.
        model.hyper_gain.log_inverse.uniform_(-10, -8)
    file = model_file.from_model(model)
    file.save(tmp_path / "model.safetensors")
    data = Codec(file).compress(photo.crop((200, 50, 300, 120)), quality=1.3, lossless=False)
    parsed = reference.parse(data, reference.read_model(tmp_path / "model.safetensors"))
    assert np.array_equal(parsed.y_hat, latent_by_torch(file, parsed))
    assert len(np.unique(parsed.y_hat - np.rint(parsed.y_hat))) > 100  # most means are below the limit


def assert_decodes_shipped_model(name, photo, size, qualities):
    codec, model = Codec.load(name), reference.read_model(shipped.path(name))
    assert model.fingerprint == codec.fingerprint
    crop = photo.crop((100, 60, 100 + size, 60 + size))
    for quality in qualities:
        data = codec.compress(crop, quality=quality, lossless=False)
        image = reference.decode(data, model)
        assert largest_difference(image, codec.decompress(data)) <= 1


def test_a_shipped_model_decodes_to_the_same_picture(photo):
    assert_decodes_shipped_model("agvae-small-mse", photo, 64, [2.3])


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_model_decodes_to_the_same_picture(name, photo):
    assert_decodes_shipped_model(name, photo, 256, [0.6, 4.7])


def test_the_command_writes_the_picture_with_its_extras(tmp_path):
    case = "v1-quadtree-two_piece"
    command = [sys.executable, TESTS / "reference_decoder.py", GOLDEN / f"{case}.agv", tmp_path / "out.png"]
    subprocess.run([*command, "--model", GOLDEN / f"{case}.safetensors"], check=True)
    image = Image.open(tmp_path / "out.png")
    expected = Codec.load(GOLDEN / f"{case}.safetensors").decompress((GOLDEN / f"{case}.agv").read_bytes())
    assert image.mode == "LA"
    assert largest_difference(image, expected) <= 1
    assert image.info["icc_profile"] == expected.info["icc_profile"]
    assert dict(image.getexif()) == dict(expected.getexif())


def test_the_luma_is_pillows():
    case = "v1-quadtree-two_piece"
    data, model = golden(case)
    parsed = reference.parse(data, model)
    grey = np.array(reference.decode(data, model))[..., 0]
    assert np.array_equal(grey, np.array(Image.fromarray(reference.learned_pixels(parsed, model)).convert("L")))


@pytest.mark.parametrize("case", ["v1-none-symmetric", "v1-multiscale-half_mass", "v1-quadtree-two_piece"])
def test_damaged_files_end_in_an_error(case):
    data, model = golden(case)
    rng = np.random.default_rng(0)
    for position in [*range(12), *rng.integers(12, len(data), 12), len(data) - 1]:
        flipped = bytearray(data)
        flipped[position] ^= 1 << int(rng.integers(8))
        with pytest.raises(reference.DamagedFileError):
            reference.decode(bytes(flipped), model)
    for length in [0, 3, 8, 12, len(data) // 2, len(data) - 4, len(data) - 1]:
        with pytest.raises(reference.DamagedFileError):
            reference.parse(data[:length], model)
    with pytest.raises(reference.DamagedFileError):
        reference.parse(data + b"\0", model)


def test_a_file_of_another_model_is_an_error():
    data, _ = golden("v1-none-symmetric")
    with pytest.raises(reference.DamagedFileError, match="another model"):
        reference.parse(data, golden("v1-none-half_mass")[1])


def test_an_alpha_channel_of_another_size_is_an_error():
    data, model = golden("v1-quadtree-two_piece")
    parsed = reference.parse(data, model)
    file = io.BytesIO()
    Image.new("L", (3, 3)).save(file, "PNG")
    header = parsed.header._replace(extras={"alpha": file.getvalue()})
    with pytest.raises(reference.DamagedFileError, match="size"):
        reference.with_extras(Image.new("RGB", (header.width, header.height)), header)
