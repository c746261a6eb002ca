"""When values are logged, and the W&B logger, which works without an account, the network, or a question."""

import functools
import logging
import netrc
import os
import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning import Trainer
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from agvae.files import write_atomically
from agvae.training.lightning_internals import started_wandb_run, wandb_options

log = logging.getLogger(__name__)

FINISH_TIMEOUT = 600
"""Seconds for which a finished run waits for its uploads; what is missing is on disk, for `wandb sync`."""


def logs_after(trainer: Trainer, step: int) -> bool:
    """Whether values are logged after optimiser step `step`; with trainer.log_every_n_steps=0 they never are."""
    return trainer.log_every_n_steps > 0 and step % trainer.log_every_n_steps == 0


class Forgiving:
    """A context in which an exception is a warning, the first time, and afterwards nothing.

    For what tells of a run and must not end it. `what` is the warning's sentence, which the reason follows."""

    def __init__(self, what: str):
        self.what, self.warned = what, False

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, Exception):
            return False
        if not self.warned:
            log.warning("%s: %s: %s", self.what, type(error).__name__, error)
        self.warned = True
        return True


class ForgivingWandbLogger(WandbLogger):
    """A WandbLogger that never ends a run: what goes wrong with W&B is a warning, once, and the run goes on.

    A run that cannot start online starts offline. It is finished with its training, so that the next one in the
    same process has its own."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        del wandb_options(self)["anonymous"]  # which W&B has given up, and warns of even where it is None
        # W&B raises nearly anything, from a full disk to a service that has died.
        self.forgiving = Forgiving("W&B failed, and the run goes on without it")

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started when it is first asked for."""
        for fallback in ("offline", "disabled"):
            try:
                return super().experiment
            except Exception as error:
                log.warning("W&B cannot start %s, it is now %s: %s", wandb_options(self)["mode"], fallback, error)
                wandb_options(self)["mode"] = fallback
        return super().experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        with self.forgiving:
            super().log_hyperparams(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self.forgiving:
            super().log_metrics(metrics, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        with self.forgiving:
            super().finalize(status)
            if (run := started_wandb_run(self)) is not None:
                run.finish(exit_code=0 if status == "success" else 1)


def wandb_logger(run_dir: str, **options: Any) -> ForgivingWandbLogger:
    """A W&B run with its files in `run_dir`/wandb, online only for a user who is logged in and where W&B answers.

    WANDB_MODE decides where it is set, but cannot make a run ask for a key. A resumed run continues its W&B run,
    whose id is kept in `run_dir`; the agent of a sweep gives its runs their ids. `options` are those of
    `wandb.init`."""
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
    run_id = id_file.read_text().strip() if id_file.exists() else ""
    if not run_id:
        run_id = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        if rank_zero_only.rank == 0:
            write_atomically(id_file, f"{run_id}\n".encode())
    settings = wandb.Settings(console="off", quiet=True, finish_timeout=FINISH_TIMEOUT)
    return ForgivingWandbLogger(save_dir=run_dir, id=run_id, mode=mode, settings=settings, **options)


def never_fails(logger: Logger) -> Logger:
    """The same logger, whose failures, of which the first is a warning, never end a run: a full disk, for one."""
    forgiving = Forgiving(f"{type(logger).__name__} failed, and the run goes on without it")
    for name in ("log_metrics", "log_hyperparams", "save", "finalize", "after_save_checkpoint"):
        # By name, so that it can be sent to processes that are spawned.
        setattr(logger, name, functools.partial(_forgive, forgiving, logger, name))
    return logger


def _forgive(forgiving: Forgiving, logger: Logger, name: str, *args: Any, **kwargs: Any) -> None:
    with forgiving:
        getattr(type(logger), name)(logger, *args, **kwargs)


def logged_in() -> bool:
    """Whether a key for the W&B host is in the environment or in the netrc file, where `wandb login` writes it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    hosts = [urlparse(_address()).hostname or ""]
    if not os.environ.get("WANDB_BASE_URL"):
        hosts.append("api.wandb.ai")  # where W&B's own service was, and logins of the time are for
    candidates = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for path in (Path(name).expanduser() for name in candidates if name):
        try:
            if path.is_file() and any(netrc.netrc(path).authenticators(host) for host in hosts):
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
    import wandb

    return os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url
