"""The W&B logger, which works without an account, without the network and without a question."""

import logging
import netrc
import os
import secrets
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

log = logging.getLogger(__name__)


def wandb_logger(run_dir: str, **options: Any) -> WandbLogger:
    """A W&B run with its files in `run_dir`/wandb, online only for a user who is logged in and where W&B answers.

    WANDB_MODE decides where it is set, but cannot make a run ask for a key. A resumed run continues its W&B run,
    whose id is kept in `run_dir`. `options` are those of `wandb.init`."""
    import wandb

    if wandb.run is not None:  # of the job before, in a sweep: this one would log into it
        wandb.finish()
    mode = os.environ.get("WANDB_MODE", "online")
    if mode in ("online", "run") and not logged_in():
        mode = "offline"
    # The other ranks write nothing. W&B itself would try for a minute and a half, and then stop the run.
    if mode in ("online", "run") and rank_zero_only.rank == 0 and not reachable():
        log.warning("W&B does not answer at %s: this run is logged offline", _address())
        mode = "offline"
    id_file = Path(run_dir) / "wandb_id.txt"
    run_id = id_file.read_text().strip() if id_file.exists() else secrets.token_hex(4)
    if rank_zero_only.rank == 0:
        id_file.write_text(run_id + "\n")
    settings = wandb.Settings(console="off", quiet=True)
    return WandbLogger(save_dir=run_dir, id=run_id, mode=mode, settings=settings, **options)


def logged_in() -> bool:
    """Whether a key for the W&B host is in the environment or in the netrc file, where `wandb login` writes it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(_address()).hostname
    candidates = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for path in (Path(name).expanduser() for name in candidates if name):
        try:
            if path.is_file() and netrc.netrc(path).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def reachable() -> bool:
    """Whether the W&B host, or the proxy before it, answers within five seconds, be it with an error."""
    try:
        urllib.request.urlopen(urllib.request.Request(_address(), method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # W&B trusts other certificates than Python does
    except OSError:
        return False
    return True


def _address() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
