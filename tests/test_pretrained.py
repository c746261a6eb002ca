"""Model folders in the layout of the Hugging Face Hub."""

import json
import shutil

import numpy as np
import pytest

from agvae import Codec, ModelError
from agvae.codec import model_file, open_codec, pretrained


@pytest.fixture
def codec(tiny_model) -> Codec:
    return Codec(model_file.from_model(tiny_model, {"steps": 1500}), "mine")


@pytest.fixture
def folder(codec, tmp_path):
    codec.save_pretrained(tmp_path / "models" / "mine")
    return tmp_path / "models" / "mine"


def test_a_model_from_a_folder_decodes_what_the_original_coded(codec, folder, photo):
    again = Codec.from_pretrained(folder)
    data = codec.compress(photo, quality=1.3, lossless=False)
    assert again.compress(photo, quality=1.3, lossless=False) == data
    assert again.name == "mine"
    np.testing.assert_array_equal(np.asarray(again.decompress(data)), np.asarray(codec.decompress(data)))


def test_the_weights_of_a_folder_are_a_whole_model_file(codec, folder):
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert Codec.load(folder / "model.safetensors").fingerprint == codec.fingerprint
    assert json.loads((folder / "config.json").read_text())["fingerprint"] == codec.fingerprint.hex()


def test_commands_take_a_folder_for_a_model(codec, folder):
    assert open_codec(str(folder)).fingerprint == codec.fingerprint


def test_a_folder_saved_again_is_the_same(folder, tmp_path):
    Codec.from_pretrained(folder).save_pretrained(tmp_path / "mine")
    for path in folder.iterdir():
        assert (tmp_path / "mine" / path.name).read_bytes() == path.read_bytes()


def test_the_card_of_a_shipped_model_has_its_licence_and_purpose():
    card = pretrained.model_card(model_file.load("agvae-small-mse"), "agvae-small-mse")
    assert "license: apache-2.0" in card
    assert "slow machines" in card


def test_the_hub_reads_the_metadata_of_a_card(folder):
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard((folder / "README.md").read_text()).data
    assert data.library_name == "agvae"
    assert data.pipeline_tag == "image-to-image"
    assert data.metrics == ["psnr", "ms_ssim"]
    assert data.license is None  # the terms of this model are unknown


def test_a_folder_that_is_no_model_is_an_error_that_says_so(folder, tmp_path):
    with pytest.raises(ModelError, match="nowhere: must be a folder on this machine"):
        Codec.from_pretrained(tmp_path / "nowhere")
    for name in ("config.json", "model.safetensors"):
        part = tmp_path / name
        shutil.copytree(folder, part)
        (part / name).unlink()
        with pytest.raises(ModelError, match=f"has no {name}"):
            Codec.from_pretrained(part)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": {}}'])
def test_a_configuration_of_another_model_is_an_error(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json: (must|describes)"):
        Codec.from_pretrained(folder)
