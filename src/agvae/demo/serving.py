"""Serves the page of `agvae demo` on this machine, and stops it."""

import os
import signal
import tempfile
import threading
from typing import Any

from agvae import shipped
from agvae.demo.app import Page, gr
from agvae.demo.coding import Models
from agvae.errors import ConfigError

_CSS = """
footer { display: none !important; }
#photos .grid-container { grid-template-columns: repeat(5, minmax(0, 1fr)); gap: 6px; }
#photos .thumbnail-item { min-width: 0; width: 100%; height: 56px; }
#photos .caption-label { display: none; }
#title { margin-bottom: -8px; }
#notice:not(:has(.notice)), #trouble:not(:has(.notice)) { display: none; }
#numbers { overflow-x: auto; }
.prose .numbers { width: 100%; margin: 0 0 4px; border: none; border-collapse: collapse;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.prose .numbers :is(th, td) { padding: 4px 8px; text-align: right; border: none; color: var(--body-text-color); }
.prose .numbers :is(th, td):first-child { text-align: left; }
.prose .numbers tr { border: none; border-bottom: 1px solid var(--border-color-primary); }
.notice { color: var(--error-text-color); background: var(--error-background-fill); padding: 8px 12px;
  border: 1px solid var(--error-border-color); border-radius: 6px; }
@media (max-width: 760px) {
  #pictures { order: -1; }
  #setting { order: -1; }
  #opened, #opened .image-container { height: auto !important; }
  .prose .numbers { font-size: 0.85em; }
  .prose .numbers :is(th, td) { padding: 4px 5px; }
}
"""
"""On a phone, the picture comes first and the slider second, so that both are visible while it moves."""


def build(model: str, max_pixels: int, device: str = "cpu") -> Page:
    """The page, which offers all shipped models and starts with `model`. Raises DataError if that model is invalid."""
    names = shipped.names()
    return Page(Models(names if model in names else [model, *names], device), model, max_pixels)


def serve(
    model: str,
    max_pixels: int,
    *,
    device: str = "cpu",
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM, and then delete the files that it made.

    Without `host` and `port`, gradio's environment variables apply, which a Space sets. Raises ConfigError if the
    address is not available."""
    with tempfile.TemporaryDirectory(prefix="agvae-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = build(model, max_pixels, device)
        ended = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        try:
            _, address, public = launch(page, host=host, port=port, share=share)
        except OSError as error:
            raise ConfigError(f"the page cannot be served: {error}; choose another --port or --host") from error
        print(f"The page is at {public or address} (press Ctrl-C to stop it)", flush=True)
        try:
            ended.wait()
        except KeyboardInterrupt:
            pass
        finally:
            page.blocks.close(verbose=False)


def launch(page: Page, **address: Any) -> tuple[Any, str, str | None]:
    """Start to serve a page in the background. Returns the application, its local address, and its public address."""
    names = {"host": "server_name", "port": "server_port", "share": "share"}
    return page.blocks.queue(max_size=32).launch(
        **{names[key]: value for key, value in address.items()},
        css=_CSS,
        # Fonts of the system, because others would come from the network.
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        footer_links=[],
        max_file_size=8 * page.max_pixels + 2**20,  # 16-bit RGB without compression, plus a margin
        state_session_capacity=64,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
    )
