"""Model folders in the layout of the Hugging Face Hub: config.json, model.safetensors and a model card, README.md."""

import json
from pathlib import Path

from agvae import shipped
from agvae.codec import model_file
from agvae.codec.model_file import FORMAT, ModelError, ModelFile
from agvae.files import write_atomically

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"

_TAGS = ("image-compression", "learned-image-compression", "variable-rate", "agvae")


def save(model: ModelFile, folder: str | Path, name: str) -> None:
    """Write the three files into `folder`, which is created if it is missing. model.safetensors is a complete model
    file."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "agvae",
        "format": FORMAT,
        "fingerprint": model.fingerprint.hex(),
        "model": model.config,
        "info": model.info,
    }
    model.save(folder / WEIGHTS)
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
    write_atomically(folder / CARD, model_card(model, name).encode())


def load(folder: str | Path) -> ModelFile:
    """Read a folder that `save` wrote. Raises ModelError, which says what is wrong.

    model.safetensors holds everything that coding needs. config.json must agree with it, so that nobody edits it
    without effect."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"{folder}: must be a folder on this machine with {CONFIG} and {WEIGHTS}; download it first")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: has no {name}; a model folder must hold {CONFIG} and {WEIGHTS}")
    model = model_file.load(folder / WEIGHTS)
    try:
        config = json.loads((folder / CONFIG).read_text())["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / CONFIG}: must be the configuration of an agvae model ({error!r})") from error
    if config != model.config:
        raise ModelError(f"{folder / CONFIG}: describes another model than {WEIGHTS} holds; copy both files again")
    return model


def model_card(model: ModelFile, name: str) -> str:
    """The README.md of a model: metadata as YAML, then a description of the model and how to use it.

    For an included model it states licence and figures. The terms of other models are unknown."""
    known = next((card for card in shipped.cards() if _is_shipped(card.name, model)), None)
    metadata = ["library_name: agvae", "pipeline_tag: image-to-image"]
    if known:
        metadata.append("license: apache-2.0")
    metadata += ["metrics:", "- psnr", "- ms_ssim", "tags:", *(f"- {tag}" for tag in _TAGS)]
    parts = model.config
    weights = sum(tensor.numel() for tensor in model.weights.values())
    rows = {
        "transforms": parts["transforms"]["name"],
        "gain units": f"{parts['gain']['name']}, {parts['gain']['levels']} levels",
        "entropy model": parts["entropy"]["name"],
        "context": parts["context"]["name"],
        "parameters": f"{weights / 1e6:.1f} M",
        "fingerprint": f"`{model.fingerprint.hex()}`",
    }
    if "steps" in model.info:
        rows["training steps"] = f"{model.info['steps']:,}"
    purpose = f"\nThis model is for {known.purpose}.\n" if known else ""
    return _CARD.format(
        metadata="\n".join(metadata),
        name=name,
        purpose=purpose,
        rows="\n".join(f"| {key} | {value} |" for key, value in rows.items()),
        results=_results(known) if known else "",
    )


def _is_shipped(name: str, model: ModelFile) -> bool:
    shipped_model = model_file.load(name)
    return shipped_model.config == model.config and shipped_model.fingerprint == model.fingerprint


def _results(card: shipped.Card) -> str:
    """A table of the model's curve on Kodak. Empty if it was not measured."""
    results = card.kodak.get("results")
    if not results:
        return ""
    columns = zip(results["bpp"], results["psnr-rgb"], results["ms-ssim-rgb"], strict=True)
    rows = "\n".join(f"| {bpp:.3f} | {psnr:.2f} | {ms_ssim:.4f} |" for bpp, psnr, ms_ssim in columns)
    return f"\n## Results\n\nMeans over the 24 Kodak images, from real files.\n\n{_HEADER}\n{rows}\n"


_HEADER = "| bpp | PSNR, dB | MS-SSIM |\n|---|---|---|"

_CARD = """---
{metadata}
---

# {name}

An AG-VAE image codec: one model compresses a picture at any rate
([Cui et al., CVPR 2021](https://arxiv.org/abs/2003.02012)).
{purpose}
| | |
|---|---|
{rows}

## Use

```python
from agvae import Codec

codec = Codec.from_pretrained("PATH/TO/THIS/FOLDER")
data = codec.compress(image, quality=2.5)  # a PIL image; or bpp=, bytes=, psnr=, ms_ssim=
image = codec.decompress(data)
```
{results}"""
