"""Formats whose readers and writers are separate packages, HEIC and JPEG XL. They are loaded when one is met."""

import importlib
from pathlib import Path

from PIL import Image

from agvae.images.picture import ImageError

_NAMES = {"HEIF": "HEIC", "JXL": "JPEG XL"}
_MODULES = {"HEIF": "pillow_heif", "JXL": "pillow_jxl"}
_PACKAGES = {"HEIF": "pillow-heif", "JXL": "pillow-jxl-plugin"}
_SUFFIXES = {".heic": "HEIF", ".heics": "HEIF", ".heif": "HEIF", ".heifs": "HEIF", ".hif": "HEIF", ".jxl": "JXL"}
_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_JXL_STARTS = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"

SNIFFED = 12
"""Bytes at the start of a file that `load_for_data` needs."""


def load_for_data(start: bytes) -> None:
    """Load the plugin that reads a file with these first bytes, if it has one of these formats.

    Raises ImageError if the plugin is not installed."""
    if start.startswith(_JXL_STARTS):
        _load("JXL")
    elif start[4:8] == b"ftyp" and start[8:12] in _BRANDS:
        _load("HEIF")


def load_for_suffix(suffix: str) -> None:
    """Load the plugin that writes files with `suffix`, if it is one of these formats. Raises as
    `load_for_data` does."""
    if name := _SUFFIXES.get(suffix.lower()):
        _load(name)


def is_picture(path: str | Path) -> bool:
    """Whether the suffix of `path` is that of a picture format, including an optional one."""
    suffix = Path(path).suffix.lower()
    return suffix in _SUFFIXES or suffix in Image.registered_extensions()


def _load(name: str) -> None:
    if name in Image.OPEN:
        return
    try:
        module = importlib.import_module(_MODULES[name])
    except ImportError as error:
        raise ImageError(
            f"{_NAMES[name]} pictures need the package {_PACKAGES[name]}: pip install 'agvae[codecs]'"
        ) from error
    if name == "HEIF":
        module.register_heif_opener()  # the other plugin registers itself
