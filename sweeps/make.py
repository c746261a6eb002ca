"""Write sweeps/*.yaml, the grids of conf/sweep as W&B's agents read them: `python sweeps/make.py` or `make sweeps`."""

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def sweep_file(path: Path) -> str:
    """W&B's form of a grid of conf/sweep, as the text of a file."""
    name = path.stem
    parameters = yaml.safe_load(path.read_text())["hydra"]["sweeper"]["params"]
    lines = [
        f"# Made from conf/sweep/{name}.yaml by `make sweeps`. Start with: wandb sweep sweeps/{name}.yaml",
        f"name: {name.replace('_', ' ')}",
        "project: agvae",
        "program: train.py",
        "method: grid",
        "command:",
        *(f"  - {part}" for part in ("${env}", "${interpreter}", "${program}", f"sweep={name}", "${args_no_hyphens}")),
        "parameters:",
    ]
    for key, values in parameters.items():
        lines += [f"  {key}:", f"    values: [{', '.join(str(values).split(','))}]"]
    return "\n".join(lines) + "\n"


def sweep_files() -> dict[Path, str]:
    """Each file of sweeps/ and its text."""
    return {ROOT / "sweeps" / path.name: sweep_file(path) for path in sorted((ROOT / "conf" / "sweep").glob("*.yaml"))}


if __name__ == "__main__":
    for file, text in sweep_files().items():
        file.write_text(text)
