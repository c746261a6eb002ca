"""Your own parts: the commands of docs/extending.md work, and parts that cannot work are refused before training."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from test_training import configure
from torch import nn

from agvae import extensions
from agvae.codec import Codec, ModelError, model_file
from agvae.configuration import Training, checked
from agvae.engine import train
from agvae.errors import ConfigError
from agvae.models.transforms import TRANSFORMS, Transforms, minnen2018

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def follow(folder: Path) -> str:
    """Write the files of the page into a folder and run its commands there. Returns their output."""
    (folder / "my_parts").mkdir()
    (folder / "my_parts" / "__init__.py").touch()
    commands = ["set -e"]
    for kind, path, text in BLOCK.findall(PAGE):
        if path:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        elif kind == "console":
            commands.append(text)
    python = shlex.quote(sys.executable)
    aliases = {"python train.py": f"{python} {ROOT}/train.py", "python evaluate.py": f"{python} {ROOT}/evaluate.py",
               "agvae export": f"{python} -m agvae export"}  # fmt: skip
    script = "\n".join(commands)
    for written, run in aliases.items():
        script = re.sub(rf"^{written}", run, script, flags=re.MULTILINE)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_page_does_what_it_says(tmp_path, photo, monkeypatch):
    for side in ("new", "old"):
        (tmp_path / "photos" / side).mkdir(parents=True)
        photo.crop((100, 50, 356, 306)).save(tmp_path / "photos" / side / "photo.png")
    follow(tmp_path)
    rows = (tmp_path / "evaluated" / "per_image.csv").read_text()
    assert "posterised" in rows
    assert "mine" in rows

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv(extensions.TRUSTED, raising=False)
    with pytest.raises(ModelError, match=r"my_parts\.transforms:plain is not part of agvae.*AGVAE_EXTENSIONS"):
        model_file.load(tmp_path / "mine.safetensors")
    assert "my_parts" not in sys.modules
    monkeypatch.setenv(extensions.TRUSTED, "my_parts.transforms,my_parts.context")
    codec = Codec.load(tmp_path / "mine.safetensors")
    image = photo.crop((0, 0, 200, 130))
    blob = codec.compress(image, quality=3)
    assert codec.decompress(blob).size == image.size
    other = Codec.load(tmp_path / "mine.safetensors")
    monkeypatch.setattr("agvae.models.exact.CHUNK", 7)
    difference = np.int16(other.decompress(blob)) - np.int16(codec.decompress(blob))
    assert np.abs(difference).max() <= 1


def test_a_model_file_imports_nothing_by_itself(monkeypatch):
    monkeypatch.delenv(extensions.TRUSTED, raising=False)
    for name in ("os:system", "this:s"):
        with pytest.raises(ValueError, match="not part of agvae"):
            extensions.find("transforms", name, TRANSFORMS)
    assert "this" not in sys.modules


def test_entry_points_are_known_by_name(monkeypatch):
    class Entry:
        name = "wavelet"

        @staticmethod
        def load():
            return minnen2018

    monkeypatch.setattr(extensions, "entry_points", lambda group, **_: [Entry] if group == "agvae_transforms" else [])
    extensions.names.cache_clear()
    assert extensions.find("transforms", "wavelet", TRANSFORMS) is minnen2018
    extensions.names.cache_clear()


# --- models that could not be exported


def with_tanh(N: int, M: int, hyper_channels: int) -> Transforms:
    made = minnen2018(N, M, hyper_channels)
    return made._replace(h_s=nn.Sequential(*made.h_s, nn.Tanh()))


def too_coarse(N: int, M: int, hyper_channels: int) -> Transforms:
    made = minnen2018(N, M, hyper_channels)
    return made._replace(g_a=nn.Sequential(*made.g_a, nn.AvgPool2d(2)))


class Normalised(nn.Module):
    def forward(self, x):
        return x / (1 + x.square().mean((2, 3), keepdim=True))


def sees_everything(N: int, M: int, hyper_channels: int) -> Transforms:
    made = minnen2018(N, M, hyper_channels)
    return made._replace(g_s=nn.Sequential(Normalised(), *made.g_s))


def too_large(N: int, M: int, hyper_channels: int) -> Transforms:
    made = minnen2018(N, M, hyper_channels)
    with torch.no_grad():
        made.h_s[-1].weight.fill_(1e9)
    return made


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (with_tanh, r"h_s\.5 has no exact form, Tanh\(\): h_s may be made of Sequential.*GELU"),
        (too_coarse, r"g_a must turn \(1, 3, 128, 192\) into \(1, 12, 8, 12\), not \(1, 12, 4, 6\)"),
        (sees_everything, "g_s must read a bounded neighbourhood"),
        (too_large, r"h_s\.4: its weights are too large for exact sums"),
    ],
)
def test_networks_that_cannot_be_exported_are_refused_before_training(tmp_path, transforms, message):
    with pytest.raises(ConfigError, match=f"this model could not be exported: {message}") as refused:
        train(configure(tmp_path, f"model.transforms.name={__name__}:{transforms.__name__}", "trainer.max_steps=1"))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.transforms.name=no.such:part", r"no\.such:part must be the import path of .*No module named"),
        (f"model.transforms.name={__name__}:nothing", "has no attribute 'nothing'"),
        ("loss.name=no.such:loss", "No module named"),
        ("data.layout=no.such:layout", "No module named"),
        (f"+model.transforms={{name: '{__name__}:with_tanh', blocks: 3}}", "unexpected keyword argument 'blocks'"),
    ],
)
def test_parts_that_are_not_there_are_said(tmp_path, override, message):
    config = OmegaConf.to_container(configure(tmp_path, override), resolve=True)
    with pytest.raises(ConfigError, match=message):
        checked(Training, config)
