"""Rate-distortion optimised quantisation: saves the last few bytes of a target where they cost least quality."""

import numpy as np

from agvae.codec.latent_codec import CodedCell
from agvae.entropy.coder import Encoder, savings_y
from agvae.entropy.tables import Tables
from agvae.models.agvae import AGVAE

_SHARE = 0.05
"""Share of the bits of a context's last pass that may be saved. If few symbols are lowered, and only those that save
most bits for their distortion, this costs no more quality than coding everything at a lower rate."""


def savable_share(model: AGVAE) -> float:
    """Share of its size that a file can lose by RDOQ."""
    return _SHARE * model.context.order.LAST


class RDOQ:
    """Symbols of a coding that can move one step towards zero with no effect on others, and the saving of each step."""

    def __init__(self, tables: Tables):
        self._tables = tables
        self._offers: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []

    def offer(self, coded: CodedCell) -> None:
        """Add a cell. Only cells of the last pass have symbols on which no others depend."""
        if not coded.cell.last:
            return
        symbols = coded.symbols
        rounding = coded.rounding.flatten().cpu().numpy()
        # A step adds (v − s ± 1)² − (v − s)² = 1 + 2·r·sign(s) to the squared error of v = s + r. In 64ths, so
        # that a float's last bits do not decide.
        added = np.rint(64 + 128 * rounding * np.sign(symbols))
        where = np.flatnonzero((symbols != 0) & (added < 64))
        added = np.maximum(added[where], 1).astype(np.int8)
        saved = savings_y(self._tables, symbols[where], coded.left[where], coded.right[where]).astype(np.float32)
        useful = saved > 0
        self._offers.append((coded.segment, where[useful].astype(np.uint32), saved[useful], added[useful]))

    def lower(self, encoder: Encoder, bits: float) -> None:
        """Lower the offered symbols that save most bits for the error that they add, until `bits` are saved."""
        saved, added = (np.concatenate([offer[i] for offer in self._offers]) for i in (2, 3))
        order = np.argsort(-saved / added, kind="stable")
        taken = np.zeros(len(order), dtype=bool)
        taken[order[: np.searchsorted(saved[order].cumsum(dtype=np.float64), bits) + 1]] = True
        start = 0
        for segment, where, *_ in self._offers:
            encoder.lower(segment, where[taken[start : start + len(where)]])
            start += len(where)
