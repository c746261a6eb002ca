"""Updates the figures of the shipped models in the README and in `agvae models`, from runs of evaluate.py on Kodak.

    python evaluate.py checkpoint=agvae-mse data=kodak data.root=KODAK      # and the same for each other shipped model
    python benchmarks/showcase.py outputs/evaluate/*

The script writes the curve and the BD-rates of each run into src/agvae/weights/cards.json. Then it draws
docs/kodak_rd.png from all cards.
"""

import argparse
import json
from pathlib import Path

from agvae.codec import model_file
from agvae.evaluation import Curve, published_curves, read_curve
from agvae.reporting.figures import rd_pair_figure
from agvae.shipped import CARDS, cards

PLOT = Path(__file__).parents[1] / "docs" / "kodak_rd.png"
BEHIND = {
    "psnr-rgb": ("vtm", "av1", "bpg444", "cheng2020-anchor-mse", "mbt2018-mean-mse", "agvae-paper-fig7"),
    "ms-ssim-rgb": ("vtm", "av1", "bpg444", "cheng2020-anchor-ms-ssim", "mbt2018-mean-ms-ssim"),
}
ANCHORS = ("vtm", "av1", "bpg444", "jpeg2000", "webp", "jpeg")
"""The published curves against which a card gives BD-rates."""


def measured(run: Path) -> tuple[str, dict]:
    """The name of a model and the Kodak section of its card, from a run of evaluate.py."""
    summary = json.loads((run / "summary.json").read_text())
    curve = read_curve(run / "results" / "kodak" / f"{summary['model']}.json")
    results = {key: [round(v, 5) for v in curve.results[key]] for key in ("quality", "bpp", "psnr-rgb", "ms-ssim-rgb")}
    rates = {}
    for anchor in ANCHORS:
        # If a codec of the run has the name of the anchor, the published curve has the suffix -published.
        rate = summary["bd_rate"].get(f"{anchor}-published") or summary["bd_rate"][anchor]
        rates[anchor] = {metric: round(rate[metric]["percent"], 2) for metric in ("psnr-rgb", "ms-ssim-rgb")}
    return summary["model"], {"results": results, "bd_rate": rates}


def draw() -> None:
    """Draw docs/kodak_rd.png from the cards."""
    by_name = {curve.name: curve for curve in published_curves()}
    curves = [
        Curve(card.name, card.purpose, card.kodak["results"], optimized_for=card.metric.removesuffix("-rgb"))
        for card in cards()
    ]
    large, small = ([curve for curve in curves if ("-small-" in curve.name) == kind] for kind in (False, True))
    behind = {metric: [by_name[name] for name in names] for metric, names in BEHIND.items()}
    rd_pair_figure(large, behind, "Kodak, 24 pictures", small).savefig(PLOT, format="png")
    print(PLOT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="run directories of evaluate.py on Kodak")
    options = parser.parse_args()
    known = json.loads(CARDS.read_text())
    for name in known:
        model = model_file.load(name)
        parameters = sum(weight.numel() for weight in model.weights.values())
        levels = model.config["gain"]["levels"]
        known[name] |= {"fingerprint": model.fingerprint.hex(), "levels": levels, "parameters": parameters}
    for run in options.runs:
        if (run / "results" / "kodak").is_dir():
            name, kodak = measured(run)
            known[name]["kodak"] = kodak
    CARDS.write_text(f"{json.dumps(known, indent=1, ensure_ascii=False)}\n")
    draw()


if __name__ == "__main__":
    main()
