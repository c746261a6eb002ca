"""Messages: messages.md lists all current messages, and no program repeats itself or shouts."""

import re

import pytest
from message_list import LIST, listed, messages_of

MESSAGES = [(path, kind, text) for path, kind, text in messages_of()]


def test_the_list_of_messages_is_up_to_date():
    assert listed() == LIST.read_text(), "run python tests/message_list.py, and review what has changed"


@pytest.mark.parametrize("kind", ["ConfigError", "DataError", "TargetError", "BitstreamError", "ModelError"])
def test_errors_are_phrases_that_end_without_a_stop(kind):
    """A command prints them in one line, after a file name or "error:". The remedy follows a colon or semicolon."""
    own = [(path, text) for path, found, text in MESSAGES if found == kind and not path.startswith("demo/")]
    assert own
    assert not [(path, text) for path, text in own if re.search(r"[.!]$|\n|  ", text)]
