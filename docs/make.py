"""Write docs/configuration.md, the reference of keys, from the schema and from conf/: `python docs/make.py`."""

import re
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from agvae.configuration import Evaluation, Training
from agvae.configuration.checking import shown
from agvae.configuration.objects import OTHER
from agvae.configuration.values import OWN, Section, fields_of, words_of

ROOT = Path(__file__).parents[1]

INTRODUCTION = """\
# Configuration

<!-- Made from src/agvae/configuration and conf/ by `python docs/make.py`. Edit those, not this. -->

Which keys do `python train.py` and `python evaluate.py` take, and what does each mean? This page
lists them all. On the command line:

- `key=value` sets a key.
- `group=option` chooses a file from the group's folder in `conf/`.
- `+key=value` sets a key that the files do not list.

If a key does not exist, or a value is not of the kind that its row allows, the command ends with
status 2 before anything is built. If a key belongs to one choice only, the column *of* names that
choice, and the default is that of the choice.
"""


@cache
def composed(name: str, choice: str) -> Any:
    """conf/NAME.yaml with a choice such as scheduler=wsd, unresolved."""
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        return compose(name, [choice] if choice else [])


def default(name: str, key: str, choice: str) -> str:
    """The value of a key that is not set, as it is written in YAML; empty if there is none."""
    cfg = composed(name, "logger=tensorboard" if key.startswith("logger.tensorboard") else choice)
    node: Any = OmegaConf.to_container(cfg, resolve=False)
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return ""
        node = node[part]
    return f"`{shown(node)}`" if node != "???" else ""


def tables(name: str, schema: type[Section]) -> dict[str, list[str]]:
    """The rows of each section's table, those of single keys first, under the name ""."""
    found: dict[str, list[str]] = {"": []}
    for key, choice, field in fields_of(schema):
        option = choice.rpartition("=")[2]
        if option == OTHER:
            continue  # of any class: said in the section's words
        owner, group = (option, choice) if choice and option.count(".") < 2 else ("", "")
        value = "" if option == OWN else default(name, key, group)
        cells = (f"`{key}`", f"`{owner}`" if owner else "", words_of(field), value, field.description or "")
        found.setdefault(key.partition(".")[0] if "." in key else "", []).append(f"| {' | '.join(cells)} |")
    return found


def reference() -> str:
    """The text of docs/configuration.md."""
    text = [INTRODUCTION]
    for name, schema in (("train", Training), ("evaluate", Evaluation)):
        text.append(f"## python {name}.py\n")
        for section, rows in tables(name, schema).items():
            if name == "evaluate" and section == "data":
                text.append("### data\n\nAs for `python train.py`.")
                continue
            inside = schema.model_fields[section].annotation if section else None
            words = inside.__doc__ if isinstance(inside, type) and inside.__doc__ else ""
            text.append(f"### {section}\n" if section else "")
            text += [f"{textwrap.fill(' '.join(words.split()), 100, break_on_hyphens=False)}\n"] if words else []
            text += ["| key | of | value | default | meaning |\n|---|---|---|---|---|", *rows, ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(text)).rstrip() + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "configuration.md").write_text(reference())
