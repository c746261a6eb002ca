"""The progress bar of commands that work on pictures."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any


class Progress:
    """A bar over all inputs on standard error, if that is a terminal and the work takes more than a second.

    A thread draws it, so that the time advances even if no share is reported for long."""

    def __init__(self, inputs: int):
        self._done = 0
        self._running: list[Share] = []
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
            self._bar.update(self._done + sum(share.done for share in self._running) - self._bar.n)

    def begin(self, name: str) -> "Share":
        """Start an input, and return its share."""
        share = Share(self)
        self._running.append(share)
        if self._bar is not None:
            self._bar.set_description_str(name, refresh=False)
            self._bar.set_postfix_str("", refresh=False)
        return share

    def end(self, share: "Share") -> None:
        """Finish an input."""
        self._running.remove(share)
        self._done += 1

    def show(self, words: str) -> None:
        """Show text behind the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(words, refresh=False)

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


class Share:
    """The share of one input that is done. Call it to report progress."""

    def __init__(self, progress: Progress):
        self._progress, self.done = progress, 0.0

    def __call__(self, share: float) -> None:
        self.done = share

    def save(self, bits: float) -> None:
        """Show how much smaller a search has made the file."""
        self._progress.show(f"{bits / 8:.0f} bytes saved")

    def end(self) -> None:
        """Finish this input."""
        self._progress.end(self)
