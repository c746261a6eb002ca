"""Arguments of command lines, and what is wrong with them in one line."""

import argparse
import math
from collections.abc import Callable
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser that ends a wrong command with status 2 and one line, without repeating its usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parsed(text: str, parse: Callable[[str], Any], good: Callable[[Any], bool], words: str) -> Any:
    """An argument as a value. Raises ArgumentTypeError, "… is not `words`", unless it is good."""
    try:
        value = parse(text)
    except ValueError:
        value = None
    if value is None or not good(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {words}")
    return value


def positive(text: str) -> float:
    """A finite number above 0. Raises ArgumentTypeError."""
    return parsed(text, float, lambda value: 0 < value < math.inf, "a number above 0")


def count(text: str) -> int:
    """A whole number above 0. Raises ArgumentTypeError."""
    return parsed(text, int, lambda value: value > 0, "a whole number above 0")
