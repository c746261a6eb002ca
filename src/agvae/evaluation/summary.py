"""The summary of an evaluation: BD-rates of a model against every anchor, and the same as text tables."""

from collections.abc import Sequence
from typing import Any

from agvae.evaluation.rd import METRICS, Curve, bd_rate
from agvae.metrics import ms_ssim_db


def bd_rates(ours: Curve, measured: Sequence[Curve], published: Sequence[Curve] = ()) -> dict[str, dict[str, Any]]:
    """BD-rates in percent of `ours` against each anchor: the other codecs of the run, and published curves.

    Each anchor's name maps to a "source" ("this run" or "published") and, for each metric, {"percent", "low", "high",
    "reason"} as in `BDRate`. If a codec of the run has the name of a published curve, the published one is called
    "<name>-published"."""
    names = {curve.name for curve in measured} | {ours.name}
    anchors = [(curve.name, "this run", curve) for curve in measured]
    anchors += [
        (f"{curve.name}-published" if curve.name in names else curve.name, "published", curve) for curve in published
    ]
    return {
        name: {"source": source, **{metric: bd_rate(curve, ours, metric)._asdict() for metric in METRICS}}
        for name, source, curve in anchors
    }


def curve_table(curve: Curve, title: str):
    """A `rich` table of one of our curves, with one line per quality."""
    from rich.table import Table

    table = Table(title=f"{curve.name} on {title}", title_justify="left")
    for heading in ("quality", "bpp", "estimate", "PSNR dB", "MS-SSIM", "in dB", "enc. s", "dec. s"):
        table.add_column(heading, justify="right")
    results = curve.results
    for i, quality in enumerate(results["quality"]):
        similarity = results["ms-ssim-rgb"][i]
        table.add_row(
            f"{quality:g}",
            f"{results['bpp'][i]:.4f}",
            f"{results['estimated_bpp'][i]:.4f}",
            f"{results['psnr-rgb'][i]:.2f}",
            f"{similarity:.4f}",
            f"{ms_ssim_db(similarity):.2f}",
            f"{results['encoding_time'][i]:.3f}",
            f"{results['decoding_time'][i]:.3f}",
        )
    return table


def bd_rate_table(name: str, rates: dict[str, dict[str, Any]]):
    """A `rich` table of `bd_rates`, with one line per anchor. A dash means that there is none (`bd_rate_notes` says
    why)."""
    from rich.table import Table

    table = Table(title=f"BD-rate of {name} (negative: fewer bits)", title_justify="left")
    table.add_column("anchor")
    table.add_column("source")
    for metric in METRICS:
        table.add_column(metric, justify="right")
    for anchor, rate in rates.items():
        cells = ("–" if rate[metric]["reason"] else f"{rate[metric]['percent']:+.1f} %" for metric in METRICS)
        table.add_row(anchor, rate["source"], *cells)
    return table


def bd_rate_notes(rates: dict[str, dict[str, Any]]) -> list[str]:
    """The reasons why BD-rates of `bd_rates` are missing, one line per reason with its anchors."""
    anchors: dict[str, list[str]] = {}
    for anchor, rate in rates.items():
        for metric in METRICS:
            if reason := rate[metric]["reason"]:
                anchors.setdefault(f"no BD-rate in {metric}, {reason}", []).append(anchor)
    return [f"{reason} (against {', '.join(names)})" for reason, names in anchors.items()]
