"""Colour spaces that a file describes without an ICC profile: gAMA and cHRM of PNG, and CICP codes.

They are converted into an ICC profile, which leaves the pixels unchanged. CICP codes are those of ITU-T H.273, as PNG's
cICP chunk and the nclx boxes of AVIF and HEIC store them: primaries, transfer, matrix, full range.
"""

import struct
from collections.abc import Sequence

import numpy as np

_WHITE_D65 = (0.3127, 0.3290)
_BT709 = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES = {  # by CICP code: x, y of white, red, green, blue
    1: (*_WHITE_D65, *_BT709),
    5: (*_WHITE_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_WHITE_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (*_WHITE_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    9: (*_WHITE_D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (*_WHITE_D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
# Parameters g, a, b, c, d of y = (a·x + b)^g for x ≥ d, c·x below; one number is a plain power.
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_BT709_CURVE = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
_CURVES = {1: _BT709_CURVE, 4: (2.2,), 5: (2.8,), 6: _BT709_CURVE, 8: (1.0,), 13: _SRGB_CURVE}
_CURVES |= {14: _BT709_CURVE, 15: _BT709_CURVE}  # by CICP code of the transfer
_SRGB_TRANSFERS = {1, 2, 6, 13, 14, 15}
"""sRGB, the curves of BT.709, which viewers show as sRGB, and 2, which means unspecified."""

_HDR = {16: "PQ", 18: "HLG"}
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_GAMMA_TOLERANCE, _PRIMARIES_TOLERANCE = 0.005, 0.005


def describe(info: dict, grey: bool) -> tuple[bytes | None, str | None]:
    """The ICC profile for the colours that `info` of an image describes in another way, and a phrase that names them.

    (None, None) for sRGB. As the PNG specification requires, CICP codes in `info["cicp"]` take precedence over sRGB,
    and sRGB over gamma and chromaticities. If no profile can describe the colours, only the phrase is returned."""
    if cicp := info.get("cicp"):
        return _from_cicp(cicp, grey)
    if "srgb" in info:
        return None, None
    gamma, chromaticity = info.get("gamma"), info.get("chromaticity")
    names = [name for name, value in (("gAMA", gamma), ("cHRM", chromaticity)) if value]
    primaries: tuple[float, ...] = _PRIMARIES[1]
    if chromaticity and not grey and not np.allclose(chromaticity, primaries, atol=_PRIMARIES_TOLERANCE):
        primaries = tuple(chromaticity)
    curve: tuple[float, ...] = _SRGB_CURVE
    if gamma and abs(gamma - 1 / 2.2) > _GAMMA_TOLERANCE:
        curve = (1 / gamma,)
    if primaries == _PRIMARIES[1] and curve == _SRGB_CURVE:
        return None, None
    try:
        profile = _profile(primaries, curve, grey)
    except (
        np.linalg.LinAlgError,
        ValueError,
        ZeroDivisionError,
        struct.error,
    ):  # chromaticities that form no colour space
        return None, f"its {' and '.join(names)} cannot be used and {'are' if len(names) > 1 else 'is'} dropped"
    return profile, f"its colours, described by {' and '.join(names)}, are described by an ICC profile now"


def _from_cicp(cicp: Sequence[int], grey: bool) -> tuple[bytes | None, str | None]:
    primaries, transfer, matrix, full = cicp
    if primaries in (1, 2) and transfer in _SRGB_TRANSFERS and matrix == 0 and full:
        return None, None
    codes = f"CICP {primaries}/{transfer}/{matrix}/{full}"
    known = _PRIMARIES.get(1 if primaries == 2 else primaries)
    curve = _CURVES.get(13 if transfer == 2 else transfer)
    if known is None or curve is None or matrix != 0 or not full:
        kind = f"{_HDR[transfer]} " if transfer in _HDR else ""
        return None, f"its {kind}colours ({codes}) are taken for sRGB, so they look different"
    if known == _PRIMARIES[1] and transfer in _SRGB_TRANSFERS:
        return None, None
    return _profile(known, curve, grey), f"its colours, described by {codes}, are described by an ICC profile now"


def _xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1, (1 - x - y) / y])


def _colorants(primaries: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """XYZ of red, green and blue as columns, under D50, and the Bradford matrix that adapts white to it."""
    white, *corners = (_xyz(*primaries[at : at + 2]) for at in range(0, 8, 2))
    columns = np.stack(corners, axis=1)
    cones = (_BRADFORD @ np.array(_D50)) / (_BRADFORD @ white)
    adaptation = np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD
    return adaptation @ (columns * np.linalg.solve(columns, white)), adaptation


def _fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _words(text: str) -> bytes:
    data = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">IIIHHII", 0, 1, 12, 0x656E, 0x5553, len(data), 28) + data


def _profile(primaries: Sequence[float], curve: Sequence[float], grey: bool) -> bytes:
    """An ICC profile, version 4.3, with these primaries (x, y of white, red, green, blue) and this decoding curve."""
    colorants, adaptation = _colorants(primaries)
    tone = b"para" + struct.pack(">IHH", 0, 3 if len(curve) > 1 else 0, 0) + _fixed(*curve)
    tags = {
        b"desc": _words("Colours of the original"),
        b"cprt": _words("No copyright"),
        b"wtpt": b"XYZ \0\0\0\0" + _fixed(*_D50),
        b"chad": b"sf32\0\0\0\0" + _fixed(*adaptation.ravel()),
    }
    if grey:
        tags[b"kTRC"] = tone
    else:
        for index, name in enumerate((b"r", b"g", b"b")):
            tags[name + b"XYZ"] = b"XYZ \0\0\0\0" + _fixed(*colorants[:, index])
            tags[name + b"TRC"] = tone
    directory, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        directory += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(
        ">I4sI4s4s4s", start + len(body), b"", 0x04300000, b"mntr", b"GRAY" if grey else b"RGB ", b"XYZ "
    )
    header += bytes(12) + b"acsp" + bytes(28) + _fixed(*_D50)
    return header.ljust(128, b"\0") + directory + body
