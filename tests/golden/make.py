"""Writes the golden files named; run by hand, once for each version of the bitstream (README.md in this folder).

python tests/golden/make.py v2-webp v2-png-1bit …
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

from conftest import lively_model, recording  # noqa: E402
from test_golden import CASES, KEPT, VERSION_2  # noqa: E402

from agvae.codec import Codec, bitstream  # noqa: E402
from agvae.codec.lossless import compress_lossless, decompress_lossless  # noqa: E402
from agvae.codec.model_file import ModelFile  # noqa: E402
from agvae.entropy.tables import build_tables, scale_grid  # noqa: E402
from agvae.images import Picture  # noqa: E402

SIZE = (100, 75)


def picture(case: str) -> Image.Image:
    """Gradients, edges and noise, of a size that needs padding; with all that a file can carry where CASES says so."""
    image = Image.fromarray(pixels(*SIZE, seed=len(case), noise=12))
    if CASES[case].get("full"):
        image = image.convert("L")
        image.putalpha(Image.fromarray(alpha(*SIZE)))
        exif = Image.Exif()
        exif[0x010E] = "golden"
        image.info["exif"] = exif.tobytes()
        profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
        profile[16:20] = b"GRAY"
        image.info["icc_profile"] = bytes(profile)
    return image


def pixels(width: int, height: int, seed: int, noise: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:height, :width]
    waves = [127 + 80 * np.sin(column / (5 + 4 * c) + row / 9) for c in range(3)]
    values = np.stack(waves, -1) + rng.normal(0, noise, (height, width, 1))
    values[20:50, 30:60] = (200, 60, 30)
    return values.clip(0, 255).astype(np.uint8)


def alpha(width: int, height: int) -> np.ndarray:
    row, column = np.mgrid[:height, :width]
    return ((row + column) % 256).astype(np.uint8)


def make_version_2(case: str) -> None:
    """A file of version 2, lossless or of a model of version 1, and what was decoded from it."""
    options = VERSION_2[case]
    width, height = 40, 30
    values = pixels(width, height, seed=0, noise=1)
    grey = np.repeat(values[..., :1], 3, axis=2)
    if options["mode"] == "1":
        picture = Picture(np.where(grey > 127, 255, 0).astype(np.uint8), grey=True, bilevel=True)
    elif options["mode"] == "I;16":
        deep = values[..., :1].astype(np.uint16) * 251 + np.arange(width, dtype=np.uint16)[:, None]
        picture = Picture((deep // 257).astype(np.uint8).repeat(3, 2), grey=True, deep=deep)
    else:
        kept = {name: KEPT[name] for name in options["kept"]}
        picture = Picture(values, alpha=alpha(width, height) if options["mode"] == "RGBA" else None, **kept)
    expected = {}
    if "model" in options:
        codec = Codec.load(FOLDER / f"{options['model']}.safetensors")
        data = codec.compress(picture, quality=options["quality"], lossless=False)
        image, expected["z"], expected["y"] = recording(codec, data)
    else:
        data = compress_lossless(picture)
        image = decompress_lossless(bitstream.unpack(data))
    (FOLDER / f"{case}.agv").write_bytes(data)
    np.savez_compressed(FOLDER / f"{case}.npz", pixels=np.array(image), **expected)
    print(f"{case}: {len(data)} bytes, {image.mode}")


def make(case: str) -> None:
    """A model file, a stream that it made, and what was decoded from it."""
    options = CASES[case]
    form = options["form"]
    config = {
        "transforms": options["transforms"] | {"N": 4, "M": 8},
        "gain": options["gain"],
        "entropy": {"name": "symmetric"} if form == "symmetric" else {"name": "asymmetric", "form": form},
        "context": {"name": options["context"]},
        "quantizer": {"name": "universal"},
    }
    model = lively_model(config)
    with torch.no_grad():
        # So that z has symbols other than 0, and what is made of it and of ŷ differs from place to place.
        for module, factor in ((model.g_a, 1.6), (model.h_a, 4), (model.h_s, 2), (model.context, 2)):
            for name, weight in module.named_parameters():
                if weight.ndim > 1 and "gamma" not in name:
                    weight *= factor
    weights = {name: w.half() for name, w in model.state_dict().items()}
    model.load_state_dict(weights)
    # A coarse grid, so that the file stays small.
    tables = build_tables(form, *model.prior.pmf(), scale_grid(16, 0.11, 64))
    path = FOLDER / f"{case}.safetensors"
    ModelFile(model.config, weights, tables, {"made_by": "tests/golden/make.py"}).save(path)

    codec = Codec.load(path)
    latent = codec.analyze(picture(case))
    if options.get("escapes"):
        # Far past what tables hold, in z too.
        latent = latent._replace(y=latent.y * torch.where(torch.rand(latent.y.shape) < 0.02, 3000, 1))
    data = codec.compress(latent, quality=options["quality"], lossless=False)
    (FOLDER / f"{case}.agv").write_bytes(data)
    image, z, y = recording(codec, data)
    expected = {"z": z, "y": y}
    if not options.get("escapes"):
        # Of such latents floating point makes pixels that may differ by more than a level.
        expected["pixels"] = np.array(image)
    np.savez_compressed(FOLDER / f"{case}.npz", **expected)
    print(f"{case}: {len(data)} bytes, |z| ≤ {abs(z).max()}, |y| ≤ {abs(y).max()}, {(y != 0).mean():.0%} of y not 0")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        make_version_2(name) if name in VERSION_2 else make(name)
