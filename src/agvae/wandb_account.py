"""Whether W&B can be used: whether the user has a key for its host, and whether the host answers."""

import netrc
import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlparse


def logged_in() -> bool:
    """Whether a key for the W&B host is in the environment or in the netrc file, to which `wandb login` writes it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    hosts = [urlparse(address()).hostname or ""]
    if not os.environ.get("WANDB_BASE_URL"):
        hosts.append("api.wandb.ai")  # the former address of W&B's service, for which old logins are stored
    candidates = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for path in (Path(name).expanduser() for name in candidates if name):
        try:
            if path.is_file() and any(netrc.netrc(path).authenticators(host) for host in hosts):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def reachable() -> bool:
    """Whether the W&B host, or the proxy before it, answers within five seconds, even with an error."""
    try:
        urllib.request.urlopen(urllib.request.Request(address(), method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # W&B trusts certificates that Python does not
    except OSError:
        return False
    return True


def address() -> str:
    """The URL of the W&B host."""
    import wandb

    return os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url
