"""The progress bar of commands that work on pictures."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any


class Progress:
    """A bar over all inputs on standard error, if that is a terminal and the work takes over a second.

    Called with the share of the current input that is done. A thread draws, so that the time goes on where no share
    is reported for long."""

    def __init__(self, inputs: int):
        self._done = 0
        self._place = 0.0
        self._bar: Any = None
        if sys.stderr is not None and sys.stderr.isatty():
            from tqdm import tqdm

            form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
            self._bar = tqdm(total=inputs, delay=1, miniters=0, leave=False, bar_format=form)
            self._closed = threading.Event()
            self._thread = threading.Thread(target=self._draw, daemon=True)
            self._thread.start()

    def _draw(self) -> None:
        while not self._closed.wait(0.2):
            self._bar.update(self._place - self._bar.n)

    def begin(self, name: str) -> None:
        """Name the current input."""
        if self._bar is not None:
            self._bar.set_description_str(name, refresh=False)
            self._bar.set_postfix_str("", refresh=False)

    def __call__(self, share: float) -> None:
        self._place = self._done + share

    def save(self, bits: float) -> None:
        """Show how much smaller the search has made the current file."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"{bits / 8:.0f} bytes saved", refresh=False)

    def end(self) -> None:
        """Go on to the next input."""
        self._done += 1
        self._place = self._done

    @contextlib.contextmanager
    def interrupted(self) -> Iterator[None]:
        """Make room for lines of text."""
        if self._bar is None:
            yield
            return
        with self._bar.get_lock():
            self._bar.clear()
            yield

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._closed.set()
            self._thread.join()
            self._bar.close()
