"""The colour photographs that scikit-image's wheel ships: data=sample, which needs no download.

| file                                 | size      | side     | terms, as skimage.data says |
|--------------------------------------|-----------|----------|-----------------------------|
| astronaut.png                        | 512 × 512 | train    | NASA, public domain         |
| motorcycle_left.png, …_right.png     | 741 × 500 | train    | Middlebury stereo benchmark |
| rocket.jpg                           | 640 × 427 | train    | SpaceX, public domain       |
| chelsea.png                          | 451 × 300 | held out | Stefan van der Walt, CC0    |
| coffee.png                           | 600 × 400 | held out | Rachel Michetti, CC0        |

The motorcycle pair shows one scene, so both are on the same side. Left out are the wheel's textures,
drawings, text pages and grey pictures, and pictures that are not everyday photographs: microscopy (ihc), a
retina in a black disc and a composite of a telescope's filters (hubble_deep_field). The files are read from
the installed wheel, because functions of skimage.data may use the network.
"""

import importlib.util
from pathlib import Path

from agvae.errors import DataError

TRAIN = ("astronaut.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg")
HELD_OUT = ("chelsea.png", "coffee.png")


def sample_folder() -> Path:
    """The folder of scikit-image's pictures. Raises DataError if scikit-image is not installed."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("data=sample uses the photos of scikit-image, which is not installed: pip install scikit-image")
    return Path(spec.submodule_search_locations[0]) / "data"


def sample_photos(names: tuple[str, ...], folder: Path | None = None) -> list[Path]:
    """Paths of the named photos. Raises DataError if this version of scikit-image lacks one."""
    folder = folder or sample_folder()
    paths = [folder / name for name in names]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise DataError(
            f"the installed scikit-image has no {', '.join(missing)} in {folder}: install the version of "
            "constraints.txt, or train on your own pictures with data=folder data.root=DIR"
        )
    return paths
