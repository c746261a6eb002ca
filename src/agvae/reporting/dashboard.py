"""The W&B dashboard as code: a workspace for a project's runs, and a report that compares the runs of each sweep.

    python -m agvae.reporting.dashboard                           build both and list their panels, without network
    python -m agvae.reporting.dashboard --publish ENTITY/PROJECT  save both at W&B, as the user who is logged in

It needs the extra `dashboard`: pip install -e '.[dashboard]'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from agvae.arguments import Parser
from agvae.errors import ConfigError, DataError, exit_on_error
from agvae.evaluation import PUBLISHED_AS
from agvae.wandb_account import logged_in

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace


class Question(NamedTuple):
    """The comparison of one sweep: the key of the configuration that it varies, its values, and a description."""

    key: str
    values: tuple[str, ...]
    question: str
    explanation: str


GAIN_VECTORS = Question(
    "gain_vectors",
    (*(f"fixed_{s}" for s in range(6)), "n2", "n3", "n4", "n6", "n8"),
    "How many gain vectors?",
    "The runs of sweep=gain_vectors: n2 to n8 are models with 2 to 8 gain vectors over one range of rates, and fixed_0 "
    "to fixed_5 are fixed-rate models at the λ of that range. Curves have points at the trained levels and half-way "
    "between them, where gains are interpolated.",
)
ENTROPY = Question(
    "entropy",
    ("symmetric", "half_mass", "two_piece"),
    "Symmetric or asymmetric entropy?",
    "The runs of sweep=entropy: a Gaussian for each element of y, or one of the two forms of the asymmetric Gaussian. "
    "The histograms show log σ_l − log σ_r, which would be 0 for a symmetric latent.",
)

_STEP = "trainer/global_step"
_PANELS_ABREAST = 3
_WIDTH, _HEIGHT = 24 // _PANELS_ABREAST, 8


def workspace(entity: str, project: str) -> Workspace:
    """A view of all runs of a project, with a section for each comparison. Nothing is sent.

    Raises ConfigError if the extra is not installed."""
    ws, wr = _libraries()
    sections = {
        "Rate and distortion": _curves(wr),
        "Training": [
            _lines(wr, "Validation loss", ["val/loss"]),
            _lines(wr, "Training loss", ["train/loss"]),
            _lines(wr, "Training rate (bpp)", ["train/bpp"]),
        ],
        "Reconstructions": [_pictures(wr, "Reconstructions and their errors", "reconstructions/panel")],
        GAIN_VECTORS.question: [*_comparison(wr, GAIN_VECTORS), *_gains(wr)],
        ENTROPY.question: [*_comparison(wr, ENTROPY), *_bits(wr)],
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name="AG-VAE",
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()],
        settings=ws.WorkspaceSettings(x_axis=_STEP),
    )


def report(entity: str, project: str) -> Report:
    """A page that shows each comparison's question, its runs and its answer. Nothing is sent.

    Raises ConfigError if the extra is not installed."""
    _, wr = _libraries()
    blocks = []
    for comparison, more in ((GAIN_VECTORS, _gains(wr)), (ENTROPY, _bits(wr))):
        # Without an entity, a set of runs belongs to the report's own project, and nothing is requested.
        runs = wr.Runset(name=comparison.key, filters=f"Config('{comparison.key}') in {list(comparison.values)}")
        panels = [*_curves(wr), *_comparison(wr, comparison), *more]
        for number, panel in enumerate(panels):
            row, column = divmod(number, _PANELS_ABREAST)
            panel.layout = wr.Layout(x=column * _WIDTH, y=row * _HEIGHT, w=_WIDTH, h=_HEIGHT)
        grid = wr.PanelGrid(runsets=[runs], panels=panels)
        blocks += [wr.H1(comparison.question), wr.P(comparison.explanation), grid]
    return wr.Report(
        entity=entity,
        project=project,
        title="AG-VAE: gain vectors and entropy",
        description="Comparison of the sweeps over gain vectors and entropy models",
        blocks=blocks,
        width="fluid",
    )


def _curves(wr: Any) -> list[Any]:
    """RD curves of the runs in one plot, from the newest table of each run."""
    query = {"summaryTable": {"tableKey": "rd/curve_table"}}
    return [
        wr.CustomChart(
            query=query,
            chart_name="wandb/line/v0",
            chart_fields={"x": "bpp", "y": column},
            chart_strings={"title": title},
        )
        for column, title in (("psnr", "PSNR (dB) over bpp"), ("ms_ssim_db", "MS-SSIM (dB) over bpp"))
    ]


def _comparison(wr: Any, comparison: Question) -> list[Any]:
    """One line, with its spread, for all runs that have the same value of the compared key."""
    grouped = {"groupby": wr.Config(comparison.key), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    bd_rates = [f"val/bd_rate_{anchor}_psnr" for anchor in PUBLISHED_AS]
    return [
        _lines(wr, f"Validation loss by {comparison.key}", ["val/loss"], **grouped),
        _lines(wr, f"BD-rate on Kodak (%) by {comparison.key}", bd_rates, **grouped),
    ]


def _gains(wr: Any) -> list[Any]:
    return [
        _pictures(wr, "Gain vectors of y over channels", "gains/y"),
        _pictures(wr, "Gain vectors of z over channels", "gains/z"),
    ]


def _bits(wr: Any) -> list[Any]:
    return [
        _pictures(wr, "Rate of each channel of y", "latent/channel_bpp"),
        _lines(wr, "log σ_l − log σ_r at the lowest level", ["latent/log_sigma_ratio_q0"]),
    ]


def _lines(wr: Any, title: str, keys: Sequence[str], **options: Any) -> Any:
    return wr.LinePlot(title=title, x=_STEP, y=list(keys), **options)


def _pictures(wr: Any, title: str, key: str) -> Any:
    return wr.MediaBrowser(title=title, media_keys=[key], mode="grid", grid_x_axis="step", grid_y_axis="run")


def _libraries() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError:
        raise ConfigError("the dashboard needs wandb-workspaces: pip install -e '.[dashboard]'") from None
    return ws, wr


def main(arguments: Sequence[str] | None = None) -> None:
    """Build both and print what they show, or publish them. Wrong usage ends with status 2, a refusal by W&B with 1."""
    parser = Parser(prog="python -m agvae.reporting.dashboard", description=__doc__.splitlines()[0])
    parser.add_argument("--publish", metavar="ENTITY/PROJECT", help="save both at W&B, where you are logged in")
    exit_on_error(_build, parser.parse_args(arguments).publish)


def _build(target: str | None) -> None:
    names = ("entity", "project") if target is None else target.split("/")
    if len(names) != 2 or not all(names):
        raise ConfigError(f"--publish must be a user or team and a project, as in --publish anna/agvae, not {target}")
    view, page = workspace(*names), report(*names)
    if target is None:
        for section in view.sections:
            print(f"workspace: {section.name}: {len(section.panels)} panels")
        blocks: list[Any] = page.blocks
        for grid in (block for block in blocks if hasattr(block, "panels")):
            print(f"report: runs of sweep={grid.runsets[0].name}: {len(grid.panels)} panels")
        print("nothing was sent: --publish ENTITY/PROJECT saves them at W&B")
        return
    if not logged_in():
        raise ConfigError("you are not logged in to W&B: run wandb login, or set WANDB_API_KEY")
    try:
        print(f"workspace: {view.save().url}")
        print(f"report: {page.save().url}")
    except Exception as error:  # from W&B's libraries, for anything from no network to no such team
        raise DataError(f"W&B refused the upload: {' '.join(str(error).split())}") from error


if __name__ == "__main__":
    main()
