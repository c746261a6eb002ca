"""The documents quote the figures of the shipped models from src/agvae/weights/cards.json."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agvae.shipped import Card, cards

ROOT = Path(__file__).parents[1]
ANCHORS = {
    "VTM": "vtm",
    "AV1": "av1",
    "BPG 4:4:4": "bpg444",
    "JPEG 2000": "jpeg2000",
    "WebP": "webp",
    "JPEG": "jpeg",
}
METRICS = {"PSNR": "psnr-rgb", "MS-SSIM": "ms-ssim-rgb"}
COLUMNS = {"quality": "quality", "bpp": "bpp", "PSNR, dB": "psnr-rgb", "MS-SSIM": "ms-ssim-rgb"}

every_model = pytest.mark.parametrize("card", cards(), ids=lambda card: card.name)


def tables(text: str) -> Iterator[list[list[str]]]:
    """The tables of a Markdown text. Each is a list of rows of cells, and the header is the first row."""
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        yield [rows[0], *rows[2:]]


def table(text: str, *header: str) -> list[list[str]]:
    """The rows, without the header, of the only table whose header begins with `header`."""
    (found,) = (rows[1:] for rows in tables(text) if tuple(rows[0][: len(header)]) == header)
    return found


def section(name: str) -> str:
    """The part of docs/models.md about one model."""
    text = (ROOT / "docs" / "models.md").read_text()
    return re.split(r"^## ", text.partition(f"\n## {name}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def agrees(cell: str, value: float) -> bool:
    """Whether a number in a document, such as "−34.7 %" or "0.9447", is `value` rounded to its decimals."""
    number = cell.removesuffix("%").strip().replace("−", "-")
    # Values in the cards are rounded already. One half-way between two numbers may be rounded to either.
    return (
        abs(float(number) - value) <= 0.5 * 10.0 ** -len(number.partition(".")[2]) + 0.006 * cell.endswith("%") + 1e-5
    )


def wrong_rates(card: Card, cells: dict[tuple[str, str], str]) -> list[str]:
    """The BD-rates of a document, by anchor and metric, that differ from those of the card."""
    rates = card.kodak["bd_rate"]
    return [
        f"{card.name} against {anchor} in {metric}: {cell}, not {rates[ANCHORS[anchor]][METRICS[metric]]}"
        for (anchor, metric), cell in cells.items()
        if not agrees(cell, rates[ANCHORS[anchor]][METRICS[metric]])
    ]


@every_model
def test_curves_of_the_model_cards_are_the_measured_ones(card):
    curve = card.kodak["results"]
    rows = table(section(card.name), *COLUMNS)
    assert [float(row[0]) for row in rows] == list(range(card.levels))
    for row in rows:
        index = curve["quality"].index(float(row[0]))
        for cell, key in zip(row, COLUMNS.values(), strict=True):
            assert agrees(cell, curve[key][index]), f"quality {row[0]}: {key} {cell}"


@every_model
def test_bd_rates_of_the_model_cards_are_the_measured_ones(card):
    rows = table(section(card.name), "against, published", *METRICS)
    assert [row[0] for row in rows] == list(ANCHORS)
    cells = {(row[0], metric): cell for row in rows for metric, cell in zip(METRICS, row[1:], strict=True)}
    assert not wrong_rates(card, cells)


@every_model
def test_the_list_of_models_has_their_sizes_and_rates(card):
    (row,) = [
        row for row in table((ROOT / "docs" / "models.md").read_text(), "model", "for") if f"[{card.name}]" in row[0]
    ]
    low, high = re.fullmatch(r"([\d.]+) to ([\d.]+) bpp", row[4]).groups()
    assert agrees(low, card.kodak["results"]["bpp"][0])
    assert agrees(high, card.kodak["results"]["bpp"][-1])
    assert agrees(row[2].removesuffix(" M"), card.parameters / 1e6)


def test_bd_rates_of_the_readme_are_the_measured_ones():
    text = (ROOT / "README.md").read_text()
    (header, *rows) = next(rows for rows in tables(text) if set(rows[0][1:]) == set(ANCHORS))
    by_name = {card.name: card for card in cards()}
    for name, *cells in rows:
        model, metric = re.fullmatch(r"`([\w-]+)`, ([\w-]+)", name).groups()
        rates = {(anchor, metric): cell for anchor, cell in zip(header[1:], cells, strict=True)}
        assert not wrong_rates(by_name[model], rates)
    assert any("`agvae-mse`" in row[0] for row in rows)
    assert any("`agvae-msssim`" in row[0] for row in rows)
