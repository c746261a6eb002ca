"""Checkpoints that are on disk whole or not at all, whatever happens while one is written."""

import io
import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from agvae.files import write_atomically

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes each checkpoint aside, syncs it and renames it, so that the one before is whole until the new one is.

    A checkpoint that cannot be written (a full disk, a quota) does not stop training: that is said, `failure` holds the
    reason until a later one has been written, and the checkpoint before stays as it is.
    """

    def __init__(self) -> None:
        self.failure: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Replace `path`; a failure is logged and kept, not raised."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content.getbuffer())
        except OSError as error:
            self.failure = error
            kept = "; the one before stays" if path.exists() else ""
            log.error("the checkpoint of step %d was not saved: %s%s", checkpoint["global_step"], error, kept)
        else:
            self.failure = None
