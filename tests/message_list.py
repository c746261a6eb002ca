"""Writes messages.md, which lists all messages and help texts of the package: `python tests/message_list.py`.

Messages are read from the source: the texts of exceptions, of log lines, and of lines and notes that are printed or
collected. {} stands for values that the program inserts. Help texts are those that the parsers print."""

import argparse
import ast
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from agvae.cli.parser import make_parser
from agvae.reporting.paper.parser import build_parser

SOURCE = Path(__file__).parents[1] / "src" / "agvae"
LIST = Path(__file__).parent / "messages.md"
PRINTED = {"end", "error", "info", "note", "print", "rank_zero_warn", "say", "_say", "warn", "warning"}
COLLECTED = {"dropped", "lost", "notes"}
"""Lists of notes that a command prints later."""

HEAD = """\
# Messages and help texts

`python tests/message_list.py` writes this file from the source, and `tests/test_messages.py` fails if it is not up to
date. Read the changes of this file to review a change of words. {} stands for what the program fills in, and | stands
between alternatives.
"""


def words(node: ast.expr) -> str:
    """The text of an expression, with {} for inserted values."""
    match node:
        case ast.Constant(str(text)):
            return text
        case ast.JoinedStr():
            return "".join(words(part) for part in node.values)
        case ast.BinOp(op=ast.Add()):
            return words(node.left) + words(node.right)
        case ast.IfExp():
            return f"{words(node.body)} | {words(node.orelse)}"
        case ast.BoolOp(op=ast.Or()):
            return " | ".join(map(words, node.values))
        case ast.FormattedValue(value=ast.IfExp()) if any(
            has_text(side) for side in (node.value.body, node.value.orelse)
        ):
            return f"({words(node.value)})"
    return "{}"


def has_text(node: ast.expr) -> bool:
    return any(character.isalpha() for character in words(node).replace("{}", ""))


def name_of(function: ast.expr) -> str:
    """The last part of a dotted name."""
    match function:
        case ast.Name(name) | ast.Attribute(attr=name):
            return name
    return ""


def messages(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The messages of a module: the name of the function or class that takes the text, and the text."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        kind = name_of(node.func)
        if kind == "append" and isinstance(node.func, ast.Attribute) and name_of(node.func.value) in COLLECTED:
            kind = "note"
        elif kind not in PRINTED and not kind.endswith("Error"):
            continue
        for text in map(words, filter(has_text, node.args)):
            yield kind, " ".join(text.split())


def helps() -> Iterator[str]:
    """The help of each command: the description, each argument, and the examples."""
    for parser in (make_parser(), build_parser()):
        commands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        for command in (parser, *(added for action in commands for added in action.choices.values())):
            yield f"### {command.prog}\n\n{command.description}\n"
            for action in command._actions:
                if action.help and not isinstance(action, argparse._HelpAction):
                    names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
                    yield f"- `{names}` {action.help % {**vars(action), 'prog': command.prog}}"
            yield f"\n{command.epilog or ''}".rstrip()


def messages_of() -> Iterator[tuple[str, str, str]]:
    """The module, kind and text of every message."""
    for path in sorted(SOURCE.rglob("*.py")):
        for kind, text in messages(ast.parse(path.read_text())):
            yield path.relative_to(SOURCE).as_posix(), kind, text


def listed() -> str:
    """The text of messages.md."""
    parts = [HEAD]
    for path, found in groupby(messages_of(), key=lambda message: message[0]):
        parts.append(f"## {path}\n")
        parts.append("\n".join(f"- *{kind}* {text}" for _, kind, text in found) + "\n")
    parts.append("## Help texts\n")
    return "\n".join([*parts, *helps()]).rstrip() + "\n"


if __name__ == "__main__":
    LIST.write_text(listed())
