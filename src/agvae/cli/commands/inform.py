"""`agvae info` and `agvae models`: facts about .agv files and the shipped models."""

import argparse
import json
from typing import Any

from agvae.cli.jobs import Job
from agvae.cli.streams import fail, read, say


def info(options: argparse.Namespace) -> int:
    """Print the facts of each file, as a block of lines or a line of JSON."""
    status, shown = 0, 0
    for path in options.paths:
        try:
            facts = _facts(Job(path, ""))
        except (ValueError, OSError) as error:
            status = fail(error, 1)
            continue
        if options.json:
            say(json.dumps(facts))
        else:
            lines = [f"{name:13} {value}" for name, value in _in_words(facts).items()]
            say("\n".join([""] * (shown > 0) + lines))
        shown += 1
    return status


def _facts(job: Job) -> dict[str, Any]:
    """The header of the file `job.input`. Raises ValueError, which names the file, or OSError."""
    try:
        data = read(job.input)
        from agvae.codec.bitstream import Kind, unpack
        from agvae.metrics import bits_per_pixel
        from agvae.quality import quality_from_fixed

        header, body = unpack(data)
    except ValueError as error:
        raise ValueError(f"{job.source}: {error}") from error
    learned = header.kind is Kind.LEARNED
    return {
        "file": job.input,
        "width": header.width,
        "height": header.height,
        "grey": header.grey,
        "version": header.version,
        "body": header.kind.name.lower(),
        "quality": quality_from_fixed(header.quality) if learned else None,
        "bytes": len(data),
        "header_bytes": len(data) - len(body),
        "alpha_bytes": len(header.alpha),
        "exif_bytes": len(header.exif),
        "icc_bytes": len(header.icc),
        "xmp_bytes": len(header.xmp),
        "text_bytes": len(header.text),
        "bpp": bits_per_pixel(len(data), header.width, header.height),
        "model": header.fingerprint.hex() if learned else None,
    }


def _in_words(facts: dict[str, Any]) -> dict[str, str]:
    """The same facts for people: rounded, with the model's name, and without fields that the file does not have."""
    from agvae.quality import QUALITY_STEPS, quality_in_words
    from agvae.shipped import card_of

    card = card_of(facts["model"] or "")
    words = {
        "file": facts["file"],
        "size": f"{facts['width']}×{facts['height']}" + (", greyscale" if facts["grey"] else ""),
        "format": f"version {facts['version']}, "
        + ("learned" if facts["body"] == "learned" else f"lossless, as {_FORMATS[facts['body']]}"),
    }
    if facts["model"]:
        words["model"] = (
            f"{card.name} ({facts['model']})" if card else f"{facts['model']}, which is not included in agvae"
        )
        words["quality"] = quality_in_words(round(facts["quality"] * QUALITY_STEPS), card and card.levels)
    words["bytes"] = f"{facts['bytes']}, of these {facts['header_bytes']} before the body"
    words["rate"] = f"{facts['bpp']:.4f} bpp"
    extras = {"alpha": "alpha", "exif": "EXIF", "icc": "ICC profile", "xmp": "XMP", "text": "text"}
    return words | {name: f"{facts[f'{key}_bytes']} bytes" for key, name in extras.items() if facts[f"{key}_bytes"]}


_FORMATS = {"webp": "WebP", "png": "PNG"}


def models(options: argparse.Namespace) -> None:
    """Print a block of lines for each shipped model."""
    from agvae import shipped

    blocks = []
    for card in shipped.cards():
        default = " (default)" if card.name == shipped.DEFAULT_MODEL else ""
        size = shipped.path(card.name).stat().st_size
        rates, metric = card.kodak["results"]["bpp"], card.metric
        words = {"psnr-rgb": "PSNR", "ms-ssim-rgb": "MS-SSIM"}[metric]
        changes = [
            f"{card.kodak['bd_rate'][anchor][metric]:+.1f} % against {name}" for anchor, name in _ANCHORS.items()
        ]
        blocks.append(
            f"{card.name}{default}\n"
            f"  for         {card.purpose}\n"
            f"  size        {size / 1e6:.1f} MB, {card.parameters / 1e6:.1f} M parameters\n"
            f"  rates       {min(rates):.2f} to {max(rates):.2f} bpp on Kodak\n"
            f"  Kodak       bytes at equal {words}: {', '.join(changes)}\n"
            f"  fingerprint {card.fingerprint}"
        )
    say("\n\n".join(blocks))


_ANCHORS = {"bpg444": "BPG", "webp": "WebP", "jpeg": "JPEG"}
"""The codecs in the output of `agvae models`, by the names of their published curves."""
