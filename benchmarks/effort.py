"""Measures efforts: BD-rate against effort 0, from real files, and seconds per megapixel.

    python benchmarks/effort.py FOLDER RESULTS [--model NAME] [--efforts 1 2 3] [--qualities 0.5 2 3.5 5]
        [--crop 256] [--limit N] [--metric psnr-rgb]

Effort 0 is measured at every level and half-way between levels. RESULTS gets a JSON file for each picture. Every coding
is stored there as soon as it is done, so a run can be stopped, resumed and extended. --crop takes the middle of each
picture, because a search takes long. BD-rates are means over pictures.

A point is the change of one file's size at equal quality, against the curve of effort 0 through all its qualities. With
few --qualities, points say more than the BD-rate, because the curve of the other effort is then coarse. Seconds are
processor time on one thread, else wall-clock time.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from common import clock, conditions, table
from PIL import Image

from agvae.codec import Codec
from agvae.evaluation.rd import Curve, bd_rate, pchip, quality_db
from agvae.files import write_atomically
from agvae.metrics import bits_per_pixel, ms_ssim, psnr
from agvae.quality import half_levels


def crop(path, side):
    """The middle of a picture, at most `side` pixels high and wide. 0 stands for the whole picture."""
    image = Image.open(path).convert("RGB")
    width, height = (min(side or length, length) for length in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def code(codec, image, quality, effort):
    """One coding: its rate (bpp), its quality, and its seconds per megapixel."""
    now = clock(codec.device.type)
    start = now()
    data = codec.compress(image, quality=quality, effort=effort)
    seconds, decoded = now() - start, codec.decompress(data)
    return {
        "effort": effort,
        "quality": quality,
        "bpp": bits_per_pixel(len(data), image.width, image.height),
        "psnr-rgb": psnr(image, decoded),
        "ms-ssim-rgb": None if math.isnan(value := ms_ssim(image, decoded)) else value,
        "seconds": seconds * 1e6 / (image.width * image.height),
    }


def measure(codec, paths, results, efforts, qualities, side):
    """Add every coding that the JSON files lack, one effort after another, and report after each effort."""
    for effort in [0, *efforts]:
        for path in paths:
            file = results / f"{path.stem}.json"
            rows = json.loads(file.read_text()) if file.exists() else []
            known = {(row["effort"], row["quality"]) for row in rows}
            for quality in qualities if effort else half_levels(codec.levels):
                if (effort, quality) not in known:
                    rows.append(code(codec, crop(path, side), quality, effort))
                    write_atomically(file, json.dumps(rows, indent=1).encode())
        report(codec, paths, results, efforts)


def curve(rows, effort):
    """The curve of a picture at one effort."""
    rows = sorted((row for row in rows if row["effort"] == effort), key=lambda row: row["quality"])
    results = {key: [row[key] for row in rows] for key in ("bpp", "psnr-rgb", "ms-ssim-rgb", "seconds")}
    return Curve(f"effort {effort}", "", results)


def report(codec, paths, results, efforts, metric="psnr-rgb"):
    """Print a table of the efforts that have been measured."""
    print(f"{codec.name}, {metric}, {conditions()}\n")
    pictures = [json.loads((results / f"{path.stem}.json").read_text()) for path in paths
                if (results / f"{path.stem}.json").exists()]  # fmt: skip
    lines = []
    for effort in efforts:
        rates, points, seconds = [], [], []
        for rows in pictures:
            plain, refined = curve(rows, 0), curve(rows, effort)
            if len(refined.results["bpp"]) < 2:
                continue
            rates.append(bd_rate(plain, refined, metric).percent)
            equal = pchip(quality_db(plain, metric), np.log(plain.results["bpp"]), quality_db(refined, metric))
            points += list(100 * np.expm1(np.log(refined.results["bpp"]) - equal))
            seconds += refined.results["seconds"]
        if rates:
            figures = (np.mean(rates), max(rates), np.nanmean(points), np.nanmax(points))
            lines.append((effort, len(rates), *(f"{v:+.2f} %" for v in figures), f"{np.mean(seconds):.0f}"))
    table(["effort", "pictures", "BD-rate", "worst picture", "mean point", "worst point", "s per megapixel"], lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--model", default="agvae-small-mse")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--efforts", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--qualities", type=float, nargs="+", default=[0.5, 2.0, 3.5, 5.0])
    parser.add_argument("--crop", type=int, default=0)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--metric", default="psnr-rgb", choices=["psnr-rgb", "ms-ssim-rgb"])
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    paths = sorted(options.folder.glob("*.png"))[: options.limit]
    codec = Codec.load(options.model, options.device)
    measure(codec, paths, options.results, options.efforts, options.qualities, options.crop)
    report(codec, paths, options.results, options.efforts, options.metric)


if __name__ == "__main__":
    main()
