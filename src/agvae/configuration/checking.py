"""Checks a configuration against its schema, and says in one line what is wrong."""

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from agvae.configuration.values import BUILT_IN, Section, choices, either, fields_of, section_of, words_of
from agvae.errors import ConfigError

S = TypeVar("S", bound=Section)


def checked(section: type[S], config: Mapping[str, Any], prefix: str = "") -> S:
    """The configuration as an object of its section. Raises ConfigError for the first key or value that is wrong.

    `prefix` is the dotted name of the section in the whole configuration, for the error message."""
    try:
        return section.model_validate(dict(config))
    except ValidationError as error:
        found = error.errors(include_url=False)
        # An unknown name explains a missing value, so it is reported first.
        first = next((item for item in found if item["type"] == "extra_forbidden"), found[0])
        raise ConfigError(_message(section, first, config, prefix)) from None


def _message(section: type[Section], error: Any, config: Mapping[str, Any], prefix: str) -> str:
    place = _place(section, error["loc"], config, prefix)
    if error["type"] == "extra_forbidden":
        return unknown(section, place.key, prefix, place.choice)
    if error["type"] == "value_error":
        return str(error["ctx"]["error"]).replace("{key}", place.key)
    if error["type"] == "missing":
        return f"{place.key} is missing: it must be {place.words}; add +{place.key}=VALUE"
    return f"{place.key} must be {place.words}, not {shown(place.value)}"


class _Place(NamedTuple):
    """A dotted key, the requirement in words, its value, and the choice that has the key, as in scheduler=wsd."""

    key: str
    words: str
    value: Any
    choice: str


def _place(section: type[Section], steps: Iterable[Any], config: Any, prefix: str) -> _Place:
    """The place that pydantic's `steps` lead to. Steps into a list or a union of plain values do not count."""
    parts, choice, words = [prefix] if prefix else [], "", "a section of keys"
    here: type[Section] | None = section
    options: dict[str, type[Section]] = {}
    for step in steps:
        if options:
            here, choice, options = options[step], "" if step == BUILT_IN else f"{'/'.join(parts)}={step}", {}
            continue
        if here is None:
            break
        parts.append(str(step))
        config = config.get(step) if isinstance(config, dict) else config
        field = next((field for name, field in here.model_fields.items() if step in (name, field.alias)), None)
        if field is None:  # unknown, or an object of any name
            here = None
            continue
        options, here = choices(field.annotation), section_of(field.annotation)
        words = "a section of keys" if here or options else words_of(field)
    if options:  # none of them was chosen
        parts.append("name")
        words, config = either(options), config.get("name") if isinstance(config, dict) else config
    return _Place(".".join(parts), words, config, choice)


def unknown(section: type[Section], key: str, prefix: str = "", choice: str = "") -> str:
    """The error for a key that does not exist in `section`, or not in the `choice` made. It names the nearest key that
    does."""
    start = f"{prefix}." if prefix else ""
    keys = fields_of(section, start)
    owners = [owner for known, owner, _ in keys if known == key or known.startswith(f"{key}.")]
    if choice and owners:
        other = f", or choose {either(filter(None, owners))}" if any(owners) else ""
        return f"{key} must not be set with {choice}: remove it with ~{key}{other}"
    if key in known_keys(section, prefix):
        return f"{key} must not be set with these choices: none of them has it"
    if near := nearest(section, key, prefix):
        return f"{key} is not a key of the configuration: the nearest is {near}"
    parent = key.rpartition(".")[0]
    beside = [known for known in known_keys(section, prefix) if known.startswith(f"{parent}." if parent else "")]
    names = dict.fromkeys(known.removeprefix(f"{parent}.").partition(".")[0] for known in beside if "/" not in known)
    return f"{key} is not a key of the configuration: {parent or 'it'} has {', '.join(names)}"


def nearest(section: type[Section], key: str, prefix: str = "") -> str | None:
    """The known key or group that is most similar to this one. None if none is similar."""
    known = known_keys(section, prefix)
    parent, _, last = key.rpartition(".")
    same = [candidate for candidate in known if candidate.rpartition(".")[2] == last]
    if same:
        return max(same, key=lambda candidate: difflib.SequenceMatcher(None, candidate, key).ratio())
    beside = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == parent}
    if found := difflib.get_close_matches(last, beside, 1, 0.6):
        return beside[found[0]]
    others = {k.rpartition(".")[2]: k for k in known}
    if parent not in section.GROUPS and (found := difflib.get_close_matches(last, others, 1, 0.8)):
        return others[found[0]]
    return next(iter(difflib.get_close_matches(key, known, 1, 0.85)), None)


@cache
def known_keys(section: type[Section], prefix: str = "") -> tuple[str, ...]:
    """All dotted keys below a section, and its groups, such as model/transforms."""
    keys = (key for key, _, _ in fields_of(section, f"{prefix}." if prefix else ""))
    return (*dict.fromkeys(keys), *section.GROUPS)


def shown(value: Any) -> str:
    """A value in the notation of the command line, shortened."""
    text = {None: "null", True: "true", False: "false"}[value] if isinstance(value, bool | None) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
