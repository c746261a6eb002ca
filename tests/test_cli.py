"""Properties of the `agvae` command, run as users run it."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from agvae import cli
from agvae.codec import model_file


@pytest.fixture
def files(tiny_model, photo, tmp_path):
    """A folder with a model and a photo."""
    model_file.from_model(tiny_model).save(tmp_path / "model.safetensors")
    photo.crop((0, 0, 201, 99)).save(tmp_path / "photo.png")
    return tmp_path


def agvae(capsys, *arguments) -> tuple[int, str, str]:
    try:
        status = cli.main([str(a) for a in arguments])
    except SystemExit as stop:  # argparse's
        status = stop.code
    return status, *capsys.readouterr()


def test_compress_info_and_decompress(files, capsys):
    model = ("--model", files / "model.safetensors")
    status, out, _ = agvae(capsys, "compress", files / "photo.png", files / "a.agv", *model, "--quality", 1.25)
    assert status == 0
    size = (files / "a.agv").stat().st_size
    assert f"{size} bytes" in out
    status, out, _ = agvae(capsys, "info", files / "a.agv", "--json")
    facts = json.loads(out)
    assert facts.items() >= {"width": 201, "height": 99, "quality": 1.25, "bytes": size}.items()
    assert facts["bpp"] == 8 * size / (201 * 99)
    assert agvae(capsys, "info", files / "a.agv")[0] == 0
    for suffix in ("png", "jpg", "webp"):
        assert agvae(capsys, "decompress", files / "a.agv", files / f"b.{suffix}", *model)[0] == 0
        assert Image.open(files / f"b.{suffix}").size == (201, 99)


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (("compress", "nowhere.png", "a.agv", "--model", "model.safetensors"), 1, "nowhere.png"),
        (("compress", "model.safetensors", "a.agv", "--model", "model.safetensors"), 1, "not an image"),
        (("compress", "photo.png", "no/a.agv", "--model", "model.safetensors"), 1, "no"),
        (("compress", "photo.png", "a.agv", "--model", "photo.png"), 1, "not a model file"),
        (("compress", "photo.png", "a.agv", "--model", "nothing"), 1, "neither a file nor a model"),
        (("compress", "photo.png", "a.agv", "--model", "model.safetensors", "--quality", "7"), 2, "range 0 to 2"),
        (("compress", "photo.png", "a.agv", "--model", "model.safetensors", "--device", "tpu9"), 2, "tpu9"),
        (("compress", "photo.png"), 2, "OUT.agv"),
        (("decompress", "photo.png", "b.png"), 1, "not an AGV file"),
        (("decompress", "photo.png", "b.xyz"), 2, ".xyz"),
        (("decompress", "nowhere.agv", "b.png"), 1, "nowhere.agv"),
        (("info", "photo.png"), 1, "not an AGV file"),
        (("export", "photo.png", "b.safetensors"), 1, "photo.png"),
        (("export", "photo.png", "b.bin"), 2, ".safetensors"),
    ],
)
def test_errors_are_one_line_and_leave_no_file(files, capsys, monkeypatch, arguments, status, word):
    monkeypatch.chdir(files)
    before = sorted(files.iterdir())
    found, _, err = agvae(capsys, *arguments)
    assert found == status
    assert word in err
    assert "Traceback" not in err
    assert err.startswith("usage:") or err.count("\n") == 1
    assert sorted(files.iterdir()) == before


def test_help_needs_nothing_heavy():
    code = "import sys, agvae.cli; agvae.cli.main(['models']); print(sorted(sys.modules.keys() & {*sys.argv[1:]}))"
    heavy = ["wandb", "matplotlib", "lightning", "compressai", "torch_geometric", "torchvision", "pandas", "hydra"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    code = "import sys, agvae.cli; agvae.cli._parser().format_help(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
