"""Integer coding tables, which the entropy coder reads in place of the densities.

A symbol of y is s = round(ȳ − μ), and its mass P(s) = F(s + ½) − F(s − ½) depends on the pair (σ_l, σ_r). In every
form of the density each side is a Gaussian tail of its own σ, so with T(x) = Φ(−x)

    P(neg) = w_l · T(½/σ_l)      P(pos) = w_r · T(½/σ_r)      P(zero) = 1 − P(neg) − P(pos)
    P(|s| = m | side) = (T((m − ½)/σ) − T((m + ½)/σ)) / T(½/σ),      m ≥ 1, σ of that side

where w = 1 for `symmetric` and `half_mass`, and w_side = 2σ_side / (σ_l + σ_r) for `two_piece`. With a tail of weight
t, T(x) = (1 − t)·Φ(−x) + t·Φ(−x/3) (agvae.entropy.densities). A symbol is therefore
coded in two steps: its class (zero, neg, pos) by a table over the pair, and its magnitude by a table over one side. K
scales need K² rows of three entries and K rows of magnitudes. A table per pair would need K² whole alphabets.

All frequencies are integers ≥ 1 that add up to 2^20. They are computed once, in float64, when a model is exported. The
model file stores them, so machines need not agree on an exponential.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from agvae.entropy.densities import ASYMMETRIC_FORMS, SCALE_MIN, TAIL_RATIO, scale_min

# ±1 at the smallest σ, 0.11, has a mass of 2.7·10⁻⁶ each. With 16 bits it could have no less than 1.5·10⁻⁵, and files
# would differ from the model's own estimate by 1 % if a model errs in that way.
PRECISION = 20
TOTAL = 1 << PRECISION
FORMS = ("symmetric", *ASYMMETRIC_FORMS)

# No symbol, coded by a table or escaped, reaches this magnitude.
SYMBOL_LIMIT = 1 << 24

# The alphabet of magnitudes ends where less mass than this is left. The escape has the rest.
_ESCAPE_MASS = 2.0**-PRECISION


def scale_grid(count: int = 128, lowest: float = SCALE_MIN, highest: float = 256.0) -> np.ndarray:
    """The log-spaced grid of σ, (count,) float64.

    0.11 is CompressAI's lower bound of σ. Rounding σ to the nearest of 128 points costs 0.008 % in bits for σ
    log-uniform over the whole grid and 0.022 % for σ log-uniform in [0.11, 2], where most of a latent lies (64
    points: 0.035 % and 0.087 %; 256 points: 0.002 % and 0.005 %, for four times the memory).
    """
    return np.geomspace(lowest, highest, count)


SCALES = scale_grid()


def scale_index(sigma: Tensor, scales: np.ndarray = SCALES) -> Tensor:
    """Index of the grid point nearest to each σ in log σ, uint8 with the shape of sigma, clamped at both ends.

    Only comparisons decide it. The thresholds are the geometric means of neighbours, whose product and square root IEEE
    754 defines to the last bit."""
    thresholds = torch.from_numpy(np.sqrt(scales[:-1] * scales[1:])).to(sigma)
    return torch.bucketize(sigma, thresholds).to(torch.uint8)


@dataclass(frozen=True)
class Tables:
    """The coding tables of one model; checked on construction, since model files may be hostile.

    form              one of FORMS
    scales            (K,) float64, the grid of σ, K ≤ 256; all other arrays are int32
    sign              (K², 2), row i_l·K + i_r; for `symmetric` (K, 2), row i. A row (a, b) gives [0, a) to zero,
                      [a, b) to neg and [b, 2^20) to pos
    magnitude         flat: for each scale the cumulative frequencies 0, …, 2^20 of m = 1, …, M and the escape, m > M
    magnitude_start   (K + 1,), where each scale's row starts
    z                 flat: for each channel of z the cumulative frequencies 0, …, 2^20 of its symbols, upwards from
                      z_offset, and of the escape, which stands for all others
    z_start           (C + 1,), where each channel's row starts
    z_offset          (C,), the smallest symbol of each channel's row

    Raises ValueError for anything that the coder could not read safely.
    """

    form: str
    scales: np.ndarray
    sign: np.ndarray
    magnitude: np.ndarray
    magnitude_start: np.ndarray
    z: np.ndarray
    z_start: np.ndarray
    z_offset: np.ndarray

    def __post_init__(self):
        _require(self.form in FORMS, f"form is {self.form!r}, not one of {', '.join(FORMS)}")
        for field in fields(self)[1:]:
            array = getattr(self, field.name)
            wanted = (np.float64, 1) if field.name == "scales" else (np.int32, 1 + (field.name == "sign"))
            _require(
                isinstance(array, np.ndarray) and (array.dtype, array.ndim) == wanted and array.flags.c_contiguous,
                f"{field.name} must be a contiguous {np.dtype(wanted[0])} array of {wanted[1]} dimension(s)",
            )
        count = len(self.scales)
        _require(1 <= count <= 256, f"{count} scales; an index has 8 bits")
        _require(
            bool(np.isfinite(self.scales).all() and self.scales[0] > 0 and (np.diff(self.scales) > 0).all()),
            "the scales must be positive and increasing",
        )
        rows = count if self.form == "symmetric" else count * count
        _require(self.sign.shape == (rows, 2), f"sign must have the shape ({rows}, 2)")
        _require(
            bool(((self.sign[:, 0] >= 1) & (self.sign[:, 0] < self.sign[:, 1]) & (self.sign[:, 1] < TOTAL)).all()),
            "sign must hold increasing frequencies inside (0, 2^20)",
        )
        _check_rows("magnitude", self.magnitude, self.magnitude_start, count)
        _check_rows("z", self.z, self.z_start, len(self.z_offset))
        _require(
            bool(((self.z_offset > -SYMBOL_LIMIT // 2) & (self.z_offset < SYMBOL_LIMIT // 2)).all()),
            "z_offset is out of range",
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(getattr(self, field.name).nbytes for field in fields(self)[1:])

    def to_tensors(self) -> dict[str, Tensor]:
        """The tables as tensors for a safetensors file: int32, except the grid in float64 and the form as a uint8 index
        of FORMS."""
        arrays = {field.name: torch.from_numpy(getattr(self, field.name)) for field in fields(self)[1:]}
        return {"form": torch.tensor(FORMS.index(self.form), dtype=torch.uint8), **arrays}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Tables":
        """Inverse of `to_tensors`. Raises ValueError for tensors that are not valid tables."""
        names = [field.name for field in fields(cls)]
        _require(set(tensors) == set(names), f"expected {', '.join(names)}; found {', '.join(sorted(tensors))}")
        form = tensors["form"]
        _require(
            form.dtype == torch.uint8 and form.ndim == 0 and int(form) < len(FORMS),
            "form must be a scalar uint8 index",
        )
        arrays = {name: tensors[name] for name in names[1:]}
        _require(
            all(array.dtype in (torch.int32, torch.float64) for array in arrays.values()),
            "the arrays must be int32 or float64",
        )
        return cls(FORMS[int(form)], **{name: array.cpu().clone().numpy() for name, array in arrays.items()})


def build_tables(
    form: str,
    z_pmf: list[np.ndarray],
    z_offset: np.ndarray,
    scales: np.ndarray | None = None,
    tail: float = 0.0,
) -> Tables:
    """Tables of a model: the Gaussian tables of `form` over the grid, and those of the factorised prior from plain
    arrays.

    `scales` defaults to `scale_grid` from the smallest σ for this `tail`. z_pmf[c] holds the masses of channel c's
    symbols z_offset[c], z_offset[c] + 1, … (round(z − median)). The escape gets the rest of the mass."""
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, not {form!r}")
    if scales is None:
        scales = scale_grid(lowest=scale_min(tail))
    magnitude, magnitude_start = _concatenate([_cumulate(_magnitude_pmf(sigma, tail)) for sigma in scales])
    z, z_start = _concatenate([_cumulate(np.append(pmf, max(0.0, 1.0 - float(np.sum(pmf))))) for pmf in z_pmf])
    return Tables(
        form=form,
        scales=np.array(scales, dtype=np.float64),
        sign=np.ascontiguousarray(_cumulate(_sign_pmf(form, scales, tail))[:, 1:3]),
        magnitude=magnitude,
        magnitude_start=magnitude_start,
        z=z,
        z_start=z_start,
        z_offset=np.array(z_offset, dtype=np.int32),
    )


def quantize_pmf(pmf: np.ndarray) -> np.ndarray:
    """Integer frequencies ≥ 1 with the sum 2^20 that cost few bits more than each row of `pmf` (…, n), int64.

    Starts slightly too low, then gives the remaining units to the entries where one more saves most bits: at most one
    per entry, and an eighth of the remaining units at a time."""
    pmf = np.asarray(pmf, dtype=np.float64)
    n = pmf.shape[-1]
    if n > TOTAL or not np.isfinite(pmf).all() or (pmf < 0).any() or (pmf.sum(-1) <= 0).any():
        raise ValueError(f"a table needs 1 to {TOTAL} probability masses, not {n}")
    shape, pmf = pmf.shape, pmf.reshape(-1, n)
    pmf = pmf / pmf.sum(-1, keepdims=True)
    freq = np.maximum(1, np.floor(pmf * (TOTAL - n)).astype(np.int64))
    while (left := TOTAL - freq.sum(-1, keepdims=True)).any():
        gain = pmf * np.log2((freq + 1) / freq)
        rank = np.argsort(np.argsort(-gain, axis=-1, kind="stable"), axis=-1)
        freq += rank < (left + 7) // 8
    return freq.reshape(shape)


def _upper_tail(x: np.ndarray, tail: float) -> np.ndarray:
    """T(x), accurate far out."""
    narrow, wide = (np.array([0.5 * math.erfc(value / ratio / 2**0.5) for value in x]) for ratio in (1, TAIL_RATIO))
    return (1 - tail) * narrow + tail * wide


def _sign_pmf(form: str, scales: np.ndarray, tail: float) -> np.ndarray:
    """Masses of zero, neg and pos: (K, 3) for `symmetric`, (K², 3) with row i_l·K + i_r otherwise."""
    side = _upper_tail(0.5 / scales, tail)
    if form == "symmetric":
        left = right = side
    else:
        left, right = np.repeat(side, len(scales)), np.tile(side, len(scales))
    if form == "two_piece":
        sigma_l, sigma_r = np.repeat(scales, len(scales)), np.tile(scales, len(scales))
        left, right = 2 * sigma_l / (sigma_l + sigma_r) * left, 2 * sigma_r / (sigma_l + sigma_r) * right
    return np.stack([1 - left - right, left, right], axis=-1)


def _magnitude_pmf(sigma: float, tail: float) -> np.ndarray:
    """Masses of m = 1, …, M given the side, and of the escape, (M + 1,)."""
    # T(5) < 2^-20 · T(0) of the widest Gaussian, so past its 5σ + 1 there is always too little left for another entry.
    widest = TAIL_RATIO * sigma if tail else sigma
    beyond = _upper_tail((np.arange(math.ceil(5 * widest) + 2) + 0.5) / sigma, tail)
    side, beyond = beyond[0], beyond / beyond[0]
    last = int(np.argmax(beyond[1:] < _ESCAPE_MASS)) + 1
    # At small σ, the side alone costs up to 19 bits. With the escape and its 5-bit length it should cost 30, the most
    # in a loss (LIKELIHOOD_MIN). The other magnitudes lose hardly anything.
    escape = max(beyond[last], min(0.25, 2.0**-25 / side))
    return np.append((1 - escape) * (beyond[:last] - beyond[1 : last + 1]) / (1 - beyond[last]), escape)


def _cumulate(pmf: np.ndarray) -> np.ndarray:
    """Cumulative integer frequencies 0, …, 2^20 of each row, (…, n + 1) int32."""
    ends = np.cumsum(quantize_pmf(pmf), axis=-1)
    return np.concatenate([np.zeros_like(ends[..., :1]), ends], axis=-1).astype(np.int32)


def _concatenate(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The rows one after another, and the start of each, with the total length at the end."""
    starts = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    return np.concatenate(rows), starts


def _require(condition: bool, message: str):
    if not condition:
        raise ValueError(f"coding tables: {message}")


def _check_rows(name: str, flat: np.ndarray, start: np.ndarray, count: int):
    """Check that every row runs from 0 to 2^20, increases strictly and has at least two entries, and that the rows fill
    `flat`."""
    _require(count >= 1 and start.shape == (count + 1,), f"{name}_start must have {count + 1} entries")
    _require(
        start[0] == 0 and start[-1] == len(flat) and bool((np.diff(start.astype(np.int64)) >= 3).all()),
        f"the rows of {name} must follow each other with two or more symbols each",
    )
    heads = np.zeros(len(flat), dtype=bool)
    heads[start[:-1]] = True
    _require(
        bool(
            (flat[start[:-1]] == 0).all()
            and (flat[start[1:] - 1] == TOTAL).all()
            and (np.diff(flat.astype(np.int64)) > 0)[~heads[1:]].all()
        ),
        f"the rows of {name} must increase from 0 to 2^20",
    )
