"""Tracking: a run's data in the files of W&B and TensorBoard. Failures of either never end the run."""

import json
import logging
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import wandb
import yaml
from hydra import compose, initialize_config_dir
from PIL import Image
from wandb.proto import wandb_internal_pb2

from agvae.codec import model_file
from agvae.engine import train
from agvae.errors import ConfigError
from agvae.evaluation import published_curves
from agvae.reporting import dashboard, tracking
from agvae.training import environment, loggers
from agvae.training.rd_curve import RDCurve

CONF = Path(__file__).parents[1] / "conf"

TINY_RUN = [
    "model.transforms.N=8",
    "model.transforms.M=12",
    "model.gain.levels=2",
    "data=folder",
    "data.batch_size=2",
    "data.patch_size=64",
    "data.val_crop=null",
    "data.samples_per_epoch=6",
    "trainer=cpu",
    "trainer.num_sanity_val_steps=0",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
    "scheduler=constant",
    "optimizer.lr=1e-2",
    "callbacks.progress_bar=null",
    "+trainer.enable_progress_bar=false",
]
QUALITIES = (0, 0.5, 1)
SAVED = 0.1
"""The share of VTM's bits that the simulated results save."""


def run(run_dir: Path, photos: Path, *overrides: str):
    roots = [f"run_dir={run_dir}", f"data.root={photos / 'train'}", f"data.val_root={photos / 'kodak'}"]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return train(compose("train", [*TINY_RUN, *roots, *overrides]))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Training pictures, and 24 others, 192×192, with the names of Kodak's."""
    from skimage.data import astronaut, coffee

    folder = tmp_path_factory.mktemp("photos")
    for name in ("train", "kodak"):
        (folder / name).mkdir()
    Image.fromarray(astronaut()).save(folder / "train" / "astronaut.png")
    pixels = coffee()
    for number in range(24):
        top, left = divmod(number, 6)
        crop = pixels[40 * top : 40 * top + 192, 60 * left : 60 * left + 192]
        Image.fromarray(crop).save(folder / "kodak" / f"kodim{number + 1:02}.png")
    return folder


@pytest.fixture(scope="module")
def no_account(tmp_path_factory) -> Iterator[None]:
    """A user who is not logged in to W&B, with a temporary home."""
    home = str(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_RUN_ID", "NETRC"):
            patch.delenv(name, raising=False)
        for name in ("HOME", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, home)
        yield


def with_fewer_bits_than_vtm(compute):
    """Replace the means of an RD curve by those of a simulated model, measured on Kodak."""
    (vtm,) = (curve.results for curve in published_curves() if curve.name == "vtm")

    def wrapped(self: RDCurve) -> list[dict[str, float]]:
        points = compute(self)
        for point, i in zip(points, (1, 3, 5), strict=True):
            values = ((1 - SAVED) * vtm["bpp"][i], vtm["psnr-rgb"][i], vtm["ms-ssim-rgb"][i])
            point.update(zip(("bpp", "psnr", "ms_ssim"), values, strict=True))
        return points

    return wrapped


@pytest.fixture(scope="module")
def tracked(photos, no_account, tmp_path_factory) -> SimpleNamespace:
    """A run of two steps, resumed for two more and validated after each second: its folder and W&B's files."""
    run_dir = tmp_path_factory.mktemp("tracked")
    drawn = []

    def rd_figure(curves, metric, published, title):
        drawn.append((metric, {curve.name for curve in published}))
        return original(curves, metric, published, title)

    original = tracking.rd_figure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RDCurve, "compute", with_fewer_bits_than_vtm(RDCurve.compute))
        patch.setattr(tracking, "rd_figure", rd_figure)
        run(run_dir, photos, "trainer.max_steps=2", "ema.decay=0.5")
        averaged = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["ema"]
        run(run_dir, photos, "trainer.max_steps=4", "ema.decay=0.5", "ckpt_path=last")
    wandb.teardown()  # W&B's process writes the last records when it ends
    first, second = sorted((run_dir / "wandb").glob("offline-run-*"))
    return SimpleNamespace(
        run_dir=run_dir, first=Offline(first), second=Offline(second), averaged=averaged, drawn=drawn
    )


class Offline:
    """The content of the file of an offline run."""

    def __init__(self, folder: Path):
        (path,) = folder.glob("*.wandb")
        self.files = folder / "files"
        self.records = list(read_records(path))
        self.run = next(record.run for record in self.records if record.HasField("run"))
        self.history = [self._row(r.history) for r in self.records if r.HasField("history")]
        updates = [u for r in self.records if r.HasField("config") for u in r.config.update]
        self.config = {u.key: json.loads(u.value_json) for u in updates if u.key}
        self.metrics = {r.metric.name: r.metric for r in self.records if r.HasField("metric")}

    def models(self) -> list[Any]:
        return [r.artifact for r in self.records if r.HasField("artifact") and r.artifact.type == "model"]

    def values(self, key: str) -> list[Any]:
        """The values logged as `key`, in order."""
        return [row[key] for row in self.history if key in row]

    def table(self, key: str) -> list[dict[str, Any]]:
        """The rows of the newest table logged as `key`."""
        data = json.loads((self.files / self.values(key)[-1]["path"]).read_text())
        return [dict(zip(data["columns"], row, strict=True)) for row in data["data"]]

    @staticmethod
    def _row(history) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for item in history.item:
            *parents, last = item.nested_key or [item.key]
            inner = row
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[last] = json.loads(item.value_json)
        return row


def read_records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: a header of 7 bytes, then a log in LevelDB's format with blocks of 32 KiB."""
    data, position, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        if (rest := 2**15 - position % 2**15) < 7:
            position += rest
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


# --- W&B


def test_the_configuration_is_recorded_resolved_with_the_code_and_its_packages(tracked):
    on_disk = yaml.safe_load((tracked.run_dir / "config.yaml").read_text())
    recorded = {key: value for key, value in tracked.second.config.items() if key != "_wandb"}
    assert recorded == on_disk
    assert recorded["data"]["patch_size"] == 64
    assert "${" not in json.dumps(recorded)
    assert recorded["environment"]["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert recorded["environment"]["git"] == environment.environment()["git"]


def test_scalars_have_the_step_as_their_axis_and_a_best_in_the_summary(tracked):
    ways = {"val/loss": "min", "val/bd_rate_vtm_psnr": "min", "val/bd_rate_bpg_ms_ssim": "min"}
    ways |= {f"val/{key}_q{q:g}": way for key, way in (("psnr", "max"), ("ms_ssim", "max")) for q in QUALITIES}
    for name, way in ways.items():
        metric = tracked.first.metrics[name]
        assert metric.step_metric == "trainer/global_step"
        assert getattr(metric.summary, way)
        assert metric.summary.last


def test_each_validation_logs_rate_and_quality_at_each_level_and_bd_rates_on_kodak(tracked):
    lines = [line.split(",") for line in (tracked.run_dir / "rd.csv").read_text().splitlines()[1:4]]
    for row in (row for row in tracked.first.history if "val/loss" in row):
        step = row["trainer/global_step"] + 1  # Lightning logs the number of the previous step
        for values in (line for line in lines if int(line[0]) == step):
            logged = [row[f"val/{key}_q{float(values[1]):g}"] for key in ("bpp", "psnr", "ms_ssim")]
            assert logged == pytest.approx([float(value) for value in values[2:]], rel=1e-4)
        assert row["val/bd_rate_vtm_psnr"] == pytest.approx(-100 * SAVED, abs=4)
        assert row["val/bd_rate_bpg_psnr"] < row["val/bd_rate_vtm_psnr"]
        assert {"val/bd_rate_vtm_ms_ssim", "val/bd_rate_bpg_ms_ssim"} <= row.keys()
    assert len(tracked.first.values("val/bd_rate_vtm_psnr")) == 1


def test_equal_curves_have_no_bd_rate_and_a_curve_below_all_others_none_yet():
    (vtm,) = (curve for curve in published_curves() if curve.name == "vtm")
    points = [
        {"quality": q, "bpp": bpp, "psnr": db, "ms_ssim": similarity}
        for q, (bpp, db, similarity) in enumerate(
            zip(*(vtm.results[key] for key in ("bpp", "psnr-rgb", "ms-ssim-rgb")), strict=True)
        )
    ]
    rates = tracking._bd_rates(tracking.rd_curve(points))
    assert rates["val/bd_rate_vtm_psnr"] == pytest.approx(0, abs=1e-9)
    assert tracking._bd_rates(tracking.rd_curve([point | {"psnr": 5.0} for point in points])).keys() == {
        "val/bd_rate_bpg_ms_ssim",
        "val/bd_rate_vtm_ms_ssim",
    }


def test_the_rd_curve_is_drawn_beside_the_published_ones(tracked):
    for metric, published in tracked.drawn:
        assert {"vtm", "bpg444"} <= published, metric
    assert [len(tracked.first.values(key)) for key in ("rd/psnr", "rd/ms_ssim", "rd/curve_table")] == [1, 1, 1]
    points = tracked.first.table("rd/curve_table")
    assert [point["quality"] for point in points] == list(QUALITIES)
    assert points[0]["ms_ssim_db"] == pytest.approx(-10 * math.log10(1 - points[0]["ms_ssim"]))


def test_a_fixed_panel_of_reconstructions_has_error_maps(tracked, photos):
    panels = tracked.first.values("reconstructions/panel") + tracked.second.values("reconstructions/panel")
    assert [panel["captions"] for panel in panels] == [[f"kodim{i:02}.png" for i in range(1, 5)]] * 2
    picture = np.array(Image.open(tracked.first.files / panels[0]["filenames"][0]))
    original = np.array(Image.open(photos / "kodak" / "kodim01.png"))
    assert picture.shape == (512, 8 + 3 * 200, 3)
    assert np.array_equal(picture[40 : 40 + 192, 8 : 8 + 192], original)  # pixel for pixel
    decoded, error = (picture[top : top + 192, 208 : 208 + 192].astype(int) for top in (40, 272))
    wrong = np.abs(decoded - original).mean(axis=2)
    assert error.sum(axis=2)[wrong > 32].min() > 600  # the brightest colour of the map
    assert error.sum(axis=2)[wrong < 4].max(initial=0) < 300


def test_gain_vectors_are_drawn_and_their_histograms_are_those_of_the_averaged_model(tracked):
    assert len(tracked.first.values("gains/y")) == len(tracked.first.values("gains/z")) == 1
    for unit, name in (("gain", "y"), ("hyper_gain", "z")):
        for matrix, short in (("log_gain", "m"), ("log_inverse", "inverse")):
            for level, vector in enumerate(tracked.averaged[f"{unit}.{matrix}"].exp()):
                shown = tracked.first.values(f"gains/{name}_{short}_{level}")[-1]
                assert sum(shown["values"]) == len(vector)
                ends = shown["bins"][0], shown["bins"][-1]
                assert ends == pytest.approx((vector.min().item(), vector.max().item()), rel=1e-5)


def test_where_the_bits_go_is_shown_by_channel_and_adds_up_to_the_rate_of_y(tracked):
    channels = tracked.first.table("latent/channels")
    assert [row["channel"] for row in channels] == list(range(12))
    rates = [tracked.first.values(f"latent/channel_bpp_q{level}")[-1] for level in (0, 1)]
    assert [sum(rate["values"]) for rate in rates] == [12, 12]
    images = tracked.first.table("val/images")
    for level in (0, 1):
        total = np.mean([row["bpp"] for row in images if row["quality"] == level])
        assert 0 < sum(row[f"bpp_q{level}"] for row in channels) < total
    assert len(tracked.first.values("latent/channel_bpp")) == 1
    assert sum(tracked.first.values("latent/log_sigma_ratio_q1")[-1]["values"]) == 12 * 12 * 12


def test_the_table_has_a_row_for_each_image_and_quality(tracked):
    rows = tracked.first.table("val/images")
    assert len({(row["image"], row["quality"]) for row in rows}) == len(rows) == 24 * len(QUALITIES)
    assert {row["step"] for row in rows} == {2}
    assert all(math.isfinite(row[key]) for row in rows for key in ("bpp", "psnr", "ms_ssim"))


def test_the_exported_model_is_an_artifact_at_the_end(tracked):
    (artifact,) = tracked.first.models()
    (entry,) = artifact.manifest.contents
    assert entry.path == "model.safetensors"
    exported = model_file.load(entry.local_path)
    metadata = json.loads(artifact.metadata)
    assert metadata["model"] == exported.config == tracked.second.config["model"]
    assert [point["quality"] for point in metadata["rd"]] == list(QUALITIES)


def test_a_resumed_run_continues_its_wandb_run(tracked):
    assert tracked.first.run.run_id == tracked.second.run.run_id
    assert tracked.second.run.resume
    assert (tracked.run_dir / "wandb_id.txt").read_text().strip() == tracked.first.run.run_id
    assert max(tracked.first.values("trainer/global_step")) < max(tracked.second.values("trainer/global_step"))


def test_the_dashboard_shows_what_runs_log(tracked):
    pytest.importorskip("wandb_workspaces")

    def shown(spec: Any) -> Iterator[str]:
        """The keys of metrics, media and tables in a view, at any depth."""
        if isinstance(spec, list):
            for inner in spec:
                yield from shown(inner)
        elif isinstance(spec, dict):
            for key, value in spec.items():
                yield from value if key in ("metrics", "mediaKeys") else shown(value)
            if spec.get("name") == "tableKey":
                yield spec["value"]

    logged = {key for row in tracked.first.history for key in row}
    for thing in (dashboard.workspace("anna", "agvae"), dashboard.report("anna", "agvae")):
        keys = set(shown(thing._to_model().model_dump(by_alias=True)))
        assert len(keys) > 6
        assert keys <= logged


def test_an_agent_of_a_sweep_names_its_runs(tmp_path, no_account, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "from-the-agent")
    assert loggers.wandb_logger(str(tmp_path)).version == "from-the-agent"
    monkeypatch.delenv("WANDB_RUN_ID")
    assert loggers.wandb_logger(str(tmp_path)).version == "from-the-agent"


def test_what_wandb_cannot_do_is_one_warning_and_no_end_of_a_run(tmp_path, photos, no_account, monkeypatch, caplog):
    class Broken:
        id = "broken"

        def __getattr__(self, name: str):
            raise OSError("the service has died")

    calls = []

    def init(**options):
        calls.append(options["mode"])
        if len(calls) == 1:
            raise wandb.errors.CommError("no route to host")
        return Broken()

    monkeypatch.setattr(wandb, "init", init)
    with caplog.at_level(logging.WARNING):
        trainer = run(tmp_path, photos, "trainer.max_steps=2", "data.val_crop=64", "data.val_images=1")
    assert trainer.global_step == 2
    assert calls == ["offline", "offline"]
    assert sum("no route to host" in record.message for record in caplog.records) == 1
    # one warning is from the logger, for scalars, and one from the tracking callback
    assert sum("the service has died" in record.message for record in caplog.records) == 2
    assert "val/loss" in next((tmp_path / "csv").rglob("metrics.csv")).read_text()


# --- elsewhere


def test_tensorboard_has_the_figures_and_histograms_and_cropped_pictures_no_bd_rate(tmp_path, photos, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(RDCurve, "compute", with_fewer_bits_than_vtm(RDCurve.compute))
    with pytest.warns(UserWarning, match=r"data\.val_crop=null"):
        run(tmp_path, photos, "logger=tensorboard", "trainer.max_steps=1", "data.val_crop=64", "model/gain=cvr")
    (events,) = (tmp_path / "tensorboard").rglob("events.*")
    tags = EventAccumulator(str(events)).Reload().Tags()
    assert {"rd/psnr", "gains/y", "latent/channel_bpp", "reconstructions/panel_0"} <= set(tags["images"])
    assert {"gains/y_m_0", "latent/channel_bpp_q1", "latent/log_sigma_ratio_q0"} <= set(tags["histograms"])
    assert "gains/z" not in tags["images"]
    assert not any("bd_rate" in tag for tag in tags["scalars"])


def test_figures_are_shown_as_the_step_grows_and_at_the_end(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(tracking, "_media", lambda gathered, *_: shown.append(gathered.step))
    monkeypatch.setattr(tracking, "_title", str)
    monkeypatch.setattr(tracking, "_has_whole_kodak", bool)
    callback, trainer = tracking.Tracking(tmp_path, growth=1.5), SimpleNamespace(loggers=[])
    for step in range(1, 11):
        callback.gathered = tracking.Gathered(step, points=[{"quality": 0.0}])
        callback.on_validation_end(trainer, None)
    callback.on_train_end(trainer, None)
    assert shown == [1, 2, 3, 5, 8, 10]


def test_a_panel_at_a_quality_that_is_not_validated_at_is_refused(tmp_path, photos):
    with pytest.raises(ConfigError, match=r"validation\.qualities"):
        run(tmp_path, photos, "logger=csv", "trainer.max_steps=1", "callbacks.tracking.qualities=[0.25]")


def test_the_coded_latent_is_what_the_model_codes(tiny_model, photo):
    x = torch.from_numpy(np.array(photo)[:128, :128]).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        coded, expected = tiny_model.code(tiny_model.g_a(x), 1.5), tiny_model(x, 1.5)
    torch.testing.assert_close(coded.y_bits, -expected.y_likelihoods.log2())
    torch.testing.assert_close(coded.z_bits, -expected.z_likelihoods.log2())


def test_the_revision_is_that_of_the_code_or_none(tmp_path):
    assert environment.git_revision(tmp_path) is None
