"""Checkpoints of all older versions can be exported (golden/checkpoints/README.md)."""

from pathlib import Path

import pytest
import torch

from agvae import cli
from agvae.codec import Codec, model_file

FOLDER = Path(__file__).parent / "golden" / "checkpoints"
AVERAGED = {"2026-11-22": False, "2026-11-23": True}


@pytest.mark.parametrize("name", AVERAGED)
def test_a_checkpoint_of_an_older_version_becomes_a_codec(name, photo, tmp_path, capsys):
    checkpoint, exported = FOLDER / f"{name}.ckpt", tmp_path / "model.safetensors"
    assert cli.main(["export", str(checkpoint), str(exported)]) == 0, capsys.readouterr().err
    content = torch.load(checkpoint, weights_only=True)
    assert bool(content.get("ema")) == AVERAGED[name]
    trained = {key.removeprefix("model."): w for key, w in content["state_dict"].items()}
    expected = content["ema"] if AVERAGED[name] else trained
    weights = model_file.load(exported).weights
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key].float(), w.to(weights[key].dtype).float()) for key, w in expected.items())

    codec, image = Codec.load(exported), photo.crop((0, 0, 100, 70))
    assert codec.info["steps"] == 8
    data = codec.compress(image, quality=1.5)
    assert codec.decompress(data).size == image.size


def test_every_golden_checkpoint_is_tested():
    assert {path.stem for path in FOLDER.glob("*.ckpt")} == set(AVERAGED)
