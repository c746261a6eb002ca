"""Sections of the configuration, and the text that describes a key's values, in errors and in the reference alike."""

import re
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, GetCoreSchemaHandler, Tag
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from agvae import extensions


class Section(BaseModel):
    """Keys that belong together. Each has a type, a range and, as its description, a meaning.

    A key that is not declared is an error. Values are not converted: a word is not a number."""

    GROUPS: ClassVar[tuple[str, ...]] = ()
    """Hydra's groups of a whole configuration: the folders of conf/ that hold its options."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Words:
    """The text for the kinds of values that a type accepts, if its annotation does not give them."""

    def __init__(self, *kinds: str):
        self.kinds = [*kinds]


Numbers = Annotated[Annotated[list[float], Field(min_length=1)] | float, Words("a number", "a list of numbers")]
"""A single number stands for a list of one."""

Count = Annotated[int, Field(ge=1, le=2**40)]

Steps = Annotated[int, Field(ge=0, le=2**40)]

Width = Annotated[int, Field(ge=1, le=1024)]

Amount = Annotated[float, Field(ge=0, le=2.0**40)]

Share = Annotated[float, Field(ge=0, le=1)]

Text = Annotated[str, Field(min_length=1)]

FilePath = Annotated[str, Field(min_length=1), Words("a path")]

_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d):(\d\d)")  # Lightning's form
_UNITS = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+)s)?")


def seconds(duration: str) -> int:
    """A duration in seconds. Raises ValueError for any other text, and for a duration of 0.

    >>> seconds("9min"), seconds("1h30min"), seconds("45s"), seconds("01:02:00:00")
    (540, 5400, 45, 93600)
    """
    found = _CLOCK.fullmatch(duration) or _UNITS.fullmatch(duration)
    days, hours, minutes, rest = (int(number or 0) for number in found.groups()) if found else (0, 0, 0, 0)
    total = ((24 * days + hours) * 60 + minutes) * 60 + rest
    if not total:
        raise ValueError(f"{{key}} must be {either(_DURATION.kinds)}, not {duration}")
    return total


def _is_duration(duration: str) -> str:
    seconds(duration)
    return duration


_DURATION = Words("a time above 0 such as 9min, 1h30min or 45s", "days:hours:minutes:seconds")

Duration = Annotated[str, AfterValidator(_is_duration), _DURATION]

OWN = "package.module:name"
"""The notation of a user's own choice, and the tag of its section."""


class Part(Words):
    """The name of a built-in part, or of a part of this kind from another package (`agvae.extensions`)."""

    def __init__(self, kind: str, *built_in: str):
        super().__init__(*built_in, OWN)
        self.kind, self.built_in = kind, built_in

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def check(self, name: str) -> str:
        """The name. Raises ValueError if there is no such part."""
        if extensions.IMPORT_PATH.fullmatch(name):
            extensions.imported(name)
        elif name not in self.built_in and name not in extensions.names(self.kind):
            raise ValueError(f"{{key}} must be {either(self.kinds)}, not {name}")
        return name


_LARGE = 2**31
"""Upper bounds from this number on only exclude nonsense, so texts do not mention them."""


def by_name(value: Any) -> str:
    """The tag of a group's section: its `name`."""
    return str(value.get("name")) if isinstance(value, dict) else ""


def is_own(kind: str, value: Any) -> bool:
    """Whether a group's section chooses a part from another package."""
    return ":" in by_name(value) or by_name(value) in extensions.names(kind)


def by_name_or_own(kind: str) -> Discriminator:
    """Like `by_name`, but OWN for a part from another package."""
    return Discriminator(lambda value: OWN if is_own(kind, value) else by_name(value))


BUILT_IN = "built in"
"""The tag of a single section for all choices that are not the user's own."""


def built_in_or_own(kind: str) -> Discriminator:
    """BUILT_IN, or OWN for a part from another package."""
    return Discriminator(lambda value: OWN if is_own(kind, value) else BUILT_IN)


def choices(annotation: Any) -> dict[str, type[Section]]:
    """The sections from which a group chooses, by tag. Empty for any other annotation."""
    found: dict[str, type[Section]] = {}
    for option in get_args(annotation):
        if get_origin(option) is not Annotated:
            found |= choices(option)
            continue
        base, *metadata = get_args(option)
        tags = [item.tag for item in metadata if isinstance(item, Tag)]
        found |= {tags[0]: base} if tags else choices(base)
    return found


def section_of(annotation: Any) -> type[Section] | None:
    """The section of a field, whether it may be null or not. None if the field holds a value or a choice of
    sections."""
    options = (annotation, *get_args(annotation))
    return next((option for option in options if isinstance(option, type) and issubclass(option, Section)), None)


def fields_of(section: type[Section], prefix: str = "", choice: str = "") -> Iterator[tuple[str, str, FieldInfo]]:
    """(dotted key, choice, field) of each value below a section. The choice is the one that has the key, or ""."""
    for name, field in section.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        if found := choices(field.annotation):
            for tag, option in found.items():
                yield from fields_of(option, f"{key}.", "" if tag == BUILT_IN else f"{key.replace('.', '/')}={tag}")
        elif inside := section_of(field.annotation):
            yield from fields_of(inside, f"{key}.", choice)
        else:
            yield key, choice, field


def words_of(field: FieldInfo) -> str:
    """The values that a field accepts, as the end of the sentence "it must be …"."""
    return either(_kinds(field.annotation, field.metadata))


def either(values: Iterable[str]) -> str:
    """Values in words: a, b or c."""
    *others, last = dict.fromkeys(values)
    return f"{', '.join(others)} or {last}" if others else last


def _kinds(annotation: Any, metadata: list[Any]) -> list[str]:
    for item in metadata:
        if isinstance(item, Words):
            return item.kinds
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *more = get_args(annotation)
        inner = [part for item in more for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
        return _kinds(base, [*inner, *metadata])
    if origin is Literal:
        return [str(value) for value in get_args(annotation)]
    if origin in (Union, types.UnionType):
        return [kind for option in get_args(annotation) for kind in _kinds(option, metadata)]
    if annotation is int:
        multiples = [item.multiple_of for item in metadata if isinstance(item, MultipleOf)]
        return [(f"a multiple of {multiples[0]}" if multiples else "a whole number") + _range(metadata)]
    if annotation is float:
        return ["a number" + _range(metadata)]
    return [_PLAIN[origin or annotation]]


_PLAIN: dict[Any, str] = {
    bool: "true or false",
    str: "a word",
    Path: "a path",
    list: "a list",
    types.NoneType: "null",
    dict: "a section of keys",
}


def _range(metadata: list[Any]) -> str:
    """Bounds in words, with a space before them: from 1 on, from 0 to 1, above 0, between 0 and 1."""
    kinds = (Ge, Gt, Le, Lt)
    bound = {kind: getattr(m, kind.__name__.lower()) for m in metadata for kind in kinds if isinstance(m, kind)}
    low, above, high, below = (bound.get(kind) for kind in kinds)
    if high is not None and high >= _LARGE:
        high = None
    if low is not None:
        end = f"to {high}" if high is not None else f"to below {below}" if below is not None else "on"
        return f" from {low} {end}"
    if above is None:
        return ""
    return f" between {above} and {below}" if below is not None else f" above {above}"
