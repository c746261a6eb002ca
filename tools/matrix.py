"""Runs the codec in environments over the supported versions: its tests, and files that every other environment reads.

    python tools/matrix.py FOLDER [--only NAME …]

Each environment is a virtual environment in FOLDER, of about 5 GB, with the versions of ENVIRONMENTS and no more of
the package's dependencies than the codec needs. It runs the codec's tests, then writes files with the golden models
and those of the package, and at last reads the files of all environments. A file counts as read if its symbols are
those that its writer had. Work that is done is not done again. Each Python must be on PATH as python3.N; one that is
missing is reported as such.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
TESTS = ("golden", "exact", "codec", "latent_codec")
NEEDED = ("fsspec", "hypothesis", "numba", "pytest", "pytorch-msssim", "safetensors", "scikit-image", "scipy", "tqdm")
"""Beside torch, numpy and Pillow: the rest of what the codec and these tests import."""

SIZE = 192, 128


class Environment(NamedTuple):
    """A Python, and the versions of some packages; pip takes the newest that fit of all others."""

    python: str
    pins: dict[str, str]


def _versions(torch: str, numpy: str, pillow: str, **others: str) -> dict[str, str]:
    return {"torch": torch, "numpy": numpy, "pillow": pillow, **others}


ENVIRONMENTS = {
    # The oldest of each that pyproject.toml allows and that has wheels for this Python.
    "oldest": Environment("3.11", _versions("2.6.0", "1.26.0", "11.3.0", numba="0.60.0", safetensors="0.4.0")),
    "newest": Environment("3.11", _versions("2.15.0", "2.4.6", "13.0.0")),
    "3.12": Environment("3.12", _versions("2.15.0", "2.5.5", "13.0.0")),
    "3.13-oldest": Environment("3.13", _versions("2.6.0", "2.1.0", "11.3.0")),
    "3.13": Environment("3.13", _versions("2.15.0", "2.5.5", "13.0.0")),
}


# --- in an environment


def write(folder: Path, name: str) -> None:
    """Write each model's file of each picture at two qualities, and beside it its symbols' hash and its pixels."""
    from agvae import Codec

    target = folder / "files" / name
    target.mkdir(parents=True, exist_ok=True)
    for model in models():
        codec = Codec.load(model)
        for index, pixels in enumerate(np.load(folder / "pictures.npy")):
            for quality in sorted({0.3 * (codec.levels - 1), 0.9 * (codec.levels - 1)}):
                path = target / f"{model.stem}-{index}-{quality:.2f}.agv"
                path.write_bytes(codec.compress(pixels, quality=quality))
                symbols, decoded = decoded_with_symbols(codec, path)
                np.save(path.with_suffix(".npy"), decoded)
                path.with_suffix(".txt").write_text(symbols)


def read(folder: Path, name: str) -> None:
    """Read the files of all environments: of each writer how many, whose symbols differ, largest pixel difference."""
    from agvae import Codec

    results = {}
    for writer in sorted((folder / "files").iterdir()):
        count, differing, largest = 0, [], 0
        for model in models():
            codec = Codec.load(model)
            for path in sorted(writer.glob(f"{model.stem}-[0-9]-*.agv")):
                count += 1
                try:
                    symbols, decoded = decoded_with_symbols(codec, path)
                except ValueError as error:
                    symbols, decoded = str(error), np.load(path.with_suffix(".npy"))
                if symbols != path.with_suffix(".txt").read_text():
                    differing.append(path.name)
                largest = max(largest, int(np.abs(decoded - np.load(path.with_suffix(".npy")).astype(int)).max()))
        results[writer.name] = {"files": count, "differing": differing, "largest": largest}
    (folder / f"{name}.read.json").write_text(json.dumps(results))


def models() -> list[Path]:
    """The golden models and those of the package."""
    return sorted([*ROOT.glob("tests/golden/*.safetensors"), *ROOT.glob("src/agvae/weights/*.safetensors")])


def decoded_with_symbols(codec, path: Path) -> tuple[str, np.ndarray]:
    """The SHA-256 of a file's symbols, and its pixels."""
    from conftest import recording

    image, z, y = recording(codec, path.read_bytes())
    return hashlib.sha256(z.tobytes() + y.tobytes()).hexdigest(), np.array(image)


# --- outside


def build(folder: Path, name: str, environment: Environment) -> str | None:
    """Make the virtual environment unless it is there; the reason if that cannot be."""
    home = folder / name
    if (home / ".ready").exists():
        return None
    python = f"python{environment.python}"
    if not shutil.which(python):
        return f"not run: no {python} on this machine"
    pins = folder / f"{name}.pins.txt"
    pins.write_text("".join(f"{package}=={version}\n" for package, version in environment.pins.items()))
    pip = [str(home / "bin/python"), "-m", "pip", "install", "--quiet", "--no-cache-dir"]
    try:
        run([python, "-m", "venv", "--clear", str(home)])
        run([*pip, "--constraint", str(pins), *environment.pins, *NEEDED])
        run([*pip, "--no-deps", "--editable", str(ROOT)])
    except subprocess.CalledProcessError as error:
        return f"cannot be installed: {error.output.strip().splitlines()[-1]}"
    (home / ".ready").touch()
    return None


def run(command: list[str]) -> str:
    """What a command prints. Raises CalledProcessError, with the output."""
    variables = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, env=variables, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    return done.stdout


def test(folder: Path, name: str) -> str:
    """The counts of pytest's last line."""
    files = [f"tests/test_{part}.py" for part in TESTS]
    command = [str(folder / name / "bin/python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    try:
        output = run(command)
    except subprocess.CalledProcessError as error:
        output = error.output
    (folder / f"{name}.tests.log").write_text(output)
    counts = re.findall(r"\d+ (?:passed|failed|error|skipped)", output.splitlines()[-1])
    return ", ".join(counts) or "did not run"


def versions(folder: Path, name: str) -> list[str]:
    """Of Python, torch, numpy, Pillow and numba, as they are installed."""
    code = "import platform, torch, numpy, PIL, numba; print(platform.python_version(), torch.__version__.split('+')[0]"
    code += ", numpy.__version__, PIL.__version__, numba.__version__)"
    return run([str(folder / name / "bin/python"), "-c", code]).split()


def report(folder: Path, names: list[str]) -> None:
    """Print the table of docs/exactness.md."""
    print("| environment | Python | torch | numpy | Pillow | numba | tests | readings | symbols differ | pixels |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in names:
        state = json.loads((folder / f"{name}.json").read_text())
        if "reason" in state:
            print(f"| {name} | {state['python']} | {state['reason']} | | | | | | | |")
            continue
        found = json.loads((folder / f"{name}.read.json").read_text()).values()
        count, differing = sum(r["files"] for r in found), sum(len(r["differing"]) for r in found)
        largest = max(r["largest"] for r in found)
        print(f"| {name} | {' | '.join(state['versions'])} | {state['tests']} | {count} | {differing} | {largest} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=ENVIRONMENTS, default=list(ENVIRONMENTS))
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder.resolve()
    if options.worker:
        {"write": write, "read": read}[options.worker[0]](folder, options.worker[1])
        return
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "pictures.npy", pictures())
    ready = []
    for name in options.only:
        environment, state = ENVIRONMENTS[name], folder / f"{name}.json"
        if reason := build(folder, name, environment):
            state.write_text(json.dumps({"python": environment.python, "reason": reason}))
            continue
        ready.append(name)
        if not state.exists() or "reason" in json.loads(state.read_text()):
            work(folder, "write", name)
            found = {"versions": versions(folder, name), "tests": test(folder, name)}
            state.write_text(json.dumps(found))
    for name in ready:
        work(folder, "read", name)
    report(folder, options.only)


def work(folder: Path, part: str, name: str) -> None:
    """`write` or `read` in an environment."""
    run([str(folder / name / "bin/python"), __file__, str(folder), "--worker", part, name])


def pictures() -> np.ndarray:
    """Two crops of a photograph, (2, height, width, 3) uint8."""
    from agvae.data.bundled_photos import sample_photos
    from agvae.images import load_rgb

    photo, (width, height) = load_rgb(*sample_photos(("astronaut.png",))), SIZE
    return np.stack([photo[top : top + height, left : left + width] for top, left in ((40, 150), (300, 60))])


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "tests")]
    main()
