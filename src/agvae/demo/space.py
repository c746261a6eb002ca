"""A folder that runs as a Hugging Face Space: the page, the package, its models, and their requirements."""

import importlib.metadata
import shutil
import sys
from pathlib import Path

from agvae import shipped
from agvae.codec import open_codec
from agvae.errors import ConfigError

_PACKAGE = Path(__file__).parents[1]

_REQUIREMENTS = (
    "torch",
    "numpy",
    "numba",
    "pillow",
    "safetensors",
    "matplotlib",
    "pytorch-msssim",
    "scikit-image",
    "lightning",
    "tqdm",
    "fsspec",
)
"""Packages that the page imports. A Space already has gradio."""

_APP = '''"""The page of agvae in a Hugging Face Space."""

from pathlib import Path

from agvae.demo.serving import serve

serve({model}, {max_pixels})
'''

_README = """---
title: AG-VAE
emoji: 🎚️
colorFrom: yellow
colorTo: red
sdk: gradio
sdk_version: {gradio}
python_version: "{python}"
app_file: app.py
license: apache-2.0
short_description: Learned image compression, one model for any rate
tags:
- image-compression
- learned-image-compression
---

# AG-VAE

Choose a photo, move the slider, and compare the decoded picture with the original, JPEG, WebP and AVIF.
You can download the files and decode them with `agvae decompress`.

`agvae demo --space` wrote this folder. `app.py` is the page, and `agvae/` is the package with its models.
"""


def write_space(folder: str | Path, model: str, max_pixels: int) -> None:
    """Write the folder of the Space, whose page starts with `model`, a shipped model or your own.

    Raises ConfigError if the folder is not empty, and DataError if the model cannot be used."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: is not empty; choose a new or empty folder for --space")
    start = repr(model)
    codec = open_codec(model)
    shutil.copytree(_PACKAGE, folder / "agvae", ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    if model not in shipped.names():
        codec.save_pretrained(folder / codec.name)
        start = f"str(Path(__file__).parent / {codec.name!r})"
    _write_metadata(folder)
    files = {
        "app.py": _app(start, max_pixels),
        "requirements.txt": "".join(f"{name}=={_version(name)}\n" for name in _REQUIREMENTS),
        "README.md": _README.format(
            gradio=_version("gradio"), python=f"{sys.version_info.major}.{sys.version_info.minor}"
        ),
    }
    for name, text in files.items():
        (folder / name).write_text(text)


def _app(start: str, max_pixels: int) -> str:
    text = _APP.format(model=start, max_pixels=max_pixels)
    return text if "Path(" in start else text.replace("from pathlib import Path\n\n", "")


def _version(name: str) -> str:
    """The installed version, without the build suffix after a + in versions of torch."""
    return importlib.metadata.version(name).partition("+")[0]


def _write_metadata(folder: Path) -> None:
    """Metadata of the package beside it, where Python looks for the version of a package in a folder."""
    version = _version("agvae")
    metadata = folder / f"agvae-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: agvae\nVersion: {version}\n")
