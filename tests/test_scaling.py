"""Many processes and sharded data: one run directory, the gradients of one large batch, no lost or doubled sample."""

import collections
import csv
import io
import os
import socket
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning import seed_everything
from lightning.pytorch.strategies import FSDPStrategy
from omegaconf import OmegaConf
from test_data import fit, write_image
from torch.utils.data import DataLoader

from agvae.cli import main
from agvae.data import DataConfig, ImageDataModule, evaluation_images, list_images
from agvae.data.datasets import collate
from agvae.data.sample_stream import ShardStream, StreamSampler
from agvae.data.shards import INDEX, read_index, write_shards
from agvae.engine import train
from agvae.errors import ConfigError, DataError
from agvae.training.directories import agreed_directory, run_directory
from agvae.training.module import AGVAEModule

ROOT = Path(__file__).parents[1]

TINY_RUN = [
    "model.transforms.N=8",
    "model.transforms.M=12",
    "data.batch_size=2",
    "data.patch_size=64",
    "data.val_crop=64",
    "data.samples_per_epoch=8",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "trainer.num_sanity_val_steps=0",
    "trainer.limit_val_batches=1",
    "trainer.log_every_n_steps=1",
    "scheduler=constant",
    "logger=csv",
    "callbacks.progress_bar=null",
    "+trainer.enable_progress_bar=false",
]


def configure(*overrides: str):
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        return compose("train", [*TINY_RUN, *overrides])


def start(*command: str, cwd: Path, **environment: str) -> subprocess.Popen:
    environment = (
        os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(cwd), "PYTHONPATH": f"{ROOT / 'src'}:{cwd}"} | environment
    )
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


def folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir())


# ---- gradients --------------------------------------------------------------------------------------------------


def module_on(rank: int, cfg) -> AGVAEModule:
    """The module as training sets it up in the process `rank`, before its first batch."""
    config = OmegaConf.to_container(cfg, resolve=True)
    seed_everything(cfg.seed, verbose=False)
    module = AGVAEModule(**{k: config[k] for k in ("model", "loss", "optimizer", "scheduler", "validation", "seed")})
    progress = SimpleNamespace(batch_progress=SimpleNamespace(total=SimpleNamespace(processed=0)))
    module._trainer = SimpleNamespace(
        fit_loop=SimpleNamespace(epoch_loop=progress),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        global_rank=rank,
        global_step=0,
        log_every_n_steps=50,
    )
    module.log = lambda *_, **__: None
    module.setup("fit")
    return module.train()


def batch_of(rank: int, cfg):
    """The first batch of process `rank` of two."""
    data = ImageDataModule.from_config(OmegaConf.to_container(cfg.data), seed=cfg.seed)
    data.setup()
    sampler = StreamSampler(data.patches, batches=1, batch_size=cfg.data.batch_size, rank=rank, world_size=2)
    return collate([data.patches[number] for number in sampler])


def gradients(module: AGVAEModule, batch) -> dict[str, torch.Tensor]:
    module.zero_grad()
    module.training_step(batch, 0).backward()
    return {name: p.grad.clone() for name, p in module.named_parameters()}


def assert_close(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-5 * float(b[name].abs().max()), msg=name)


@pytest.mark.parametrize("quantizer", ["universal", "noise"])
def test_gradients_of_two_batches_are_those_of_one_twice_as_large(quantizer, monkeypatch):
    cfg = configure("run_dir=.", f"model/quantizer={quantizer}", "loss.level_sampling=sample")
    drawn = collections.defaultdict(list)

    def recording(kind, function):
        return lambda *args, **kwargs: drawn[kind].append(function(*args, **kwargs)) or drawn[kind][-1]

    parts = []
    for rank in range(2):
        module = module_on(rank, cfg)
        with monkeypatch.context() as patch:
            for name in ("rand", "rand_like"):
                patch.setattr(torch, name, recording((rank, "noise"), getattr(torch, name)))
            module.draw_levels = recording((rank, "levels"), module.draw_levels)
            parts.append(gradients(module, batch_of(rank, cfg)))
    assert drawn[0, "levels"][0].tolist() != drawn[1, "levels"][0].tolist()
    mean = {name: (parts[0][name] + parts[1][name]) / 2 for name in parts[0]}

    module = module_on(0, cfg)
    noise = iter([torch.cat(pair) for pair in zip(drawn[0, "noise"], drawn[1, "noise"], strict=True)])
    for name in ("rand", "rand_like"):
        monkeypatch.setattr(torch, name, lambda *_, **__: next(noise))
    module.draw_levels = lambda size: torch.cat([drawn[rank, "levels"][0] for rank in range(2)])
    pictures, paths = zip(*(batch_of(rank, cfg) for rank in range(2)), strict=True)
    assert_close(gradients(module, type(batch_of(0, cfg))(torch.cat(pictures), [*paths[0], *paths[1]])), mean)


PROBE = """
import torch
from lightning.pytorch.callbacks import Callback


class Probe(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_after_backward(self, trainer, module):
        gradients = {name: p.grad for name, p in module.named_parameters()}
        entropy = module.hparams.model["entropy"]["name"]
        torch.save((entropy, trainer.world_size, gradients), f"{self.folder}/rank{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_a_sweep_with_two_processes_a_run_does_each_job_once_on_both(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    probe = ["+callbacks.probe._target_=probe.Probe", "+callbacks.probe.folder=${run_dir}"]
    options = [*TINY_RUN, "trainer.devices=2", "trainer.max_steps=1", "trainer.limit_val_batches=0", *probe]
    end(start(str(ROOT / "train.py"), "-m", "model/entropy=symmetric,asymmetric", *options, cwd=tmp_path))

    assert [name for name in folders(tmp_path) if name[0] not in "._"] == ["multirun"]
    (sweep,) = (tmp_path / "multirun" / "train").iterdir()
    assert folders(sweep) == ["0", "1"]
    for job, entropy in (("0", "symmetric"), ("1", "asymmetric")):
        assert folders(sweep / job) == [".hydra", "checkpoints", "csv"]
        assert torch.load(sweep / job / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 1
        cfg = configure("run_dir=.", f"model/entropy={entropy}")
        alone = [gradients(module_on(rank, cfg), batch_of(rank, cfg)) for rank in range(2)]
        for rank in range(2):
            name, processes, averaged = torch.load(sweep / job / f"rank{rank}.pt", weights_only=True)
            assert (name, processes) == (entropy, 2)
            assert_close(averaged, {key: (alone[0][key] + alone[1][key]) / 2 for key in alone[0]})


def test_clipping_under_fsdp_goes_by_the_norm_over_all_processes(monkeypatch):
    module = module_on(0, configure("run_dir=."))
    module._trainer.strategy = FSDPStrategy()
    # The other three processes have the same gradients as this one.
    monkeypatch.setattr(module._trainer.strategy, "reduce", lambda value, reduce_op: {"sum": 4}[reduce_op] * value)
    optimizer = SimpleNamespace(
        param_groups=[{"params": module.model.network_parameters()}, {"params": module.model.quantile_parameters()}],
        defaults={"fused": False},
    )
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    module.configure_gradient_clipping(optimizer, 1.0, "norm")
    share = torch.cat([p.grad.flatten() for p in module.model.network_parameters()]).norm()
    assert share == pytest.approx(0.5, rel=1e-3)


# ---- the output and the folder of a run -------------------------------------------------------------------------


def test_a_step_is_one_of_the_optimiser_and_is_spelled_out(tmp_path, capsys):
    options = ["trainer.devices=1", "trainer.max_steps=2", "trainer.limit_val_batches=0"]
    trainer = train(configure(f"run_dir={tmp_path}", *options, "trainer.accumulate_grad_batches=3"))
    assert (trainer.global_step, trainer.fit_loop.epoch_loop.batch_progress.total.completed) == (2, 6)
    said = capsys.readouterr().out
    assert "6 patches a step (2 on each of 1 device, 3 batches accumulated), 12 in 2 steps" in said
    assert "rate:       0.0001, constant" in said


@pytest.mark.parametrize("overrides", [["ema.decay=0.9"], ["trainer.precision=bf16-mixed"], ["compile=true"]])
def test_what_fsdp_would_do_wrong_is_refused(tmp_path, overrides):
    with pytest.raises(ConfigError, match=r"trainer=ddp"):
        train(configure(f"run_dir={tmp_path}", "trainer=fsdp", *overrides))


@pytest.fixture
def torchrun_environment(monkeypatch):
    """The environment that torchrun sets for a process. This process holds the store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = torch.distributed.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    yield
    del store


def test_processes_of_torchrun_share_one_directory_whatever_the_time(torchrun_environment):
    assert run_directory(None, "outputs/train/12-00-00") == "outputs/train/12-00-00"
    assert run_directory(None, "outputs/train/12-00-01") == "outputs/train/12-00-00"
    assert run_directory(None, "multirun/train/12-00-02") == "multirun/train/12-00-02"


def test_tasks_of_a_slurm_step_share_a_directory_named_for_it(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    assert agreed_directory("outputs/train/now") == "outputs/train/now"
    for name, value in {"NTASKS": "4", "JOB_ID": "1234", "STEP_ID": "1", "JOB_NAME": "train"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert agreed_directory("outputs/train/now") == "outputs/train/slurm-1234.1"
    (tmp_path / "before" / "checkpoints").mkdir(parents=True)
    (tmp_path / "before" / "checkpoints" / "last.ckpt").touch()
    assert run_directory("last", f"{tmp_path}/now") == f"{tmp_path}/before"
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert agreed_directory("outputs/train/now") == "outputs/train/now"


def test_a_task_of_slurm_uses_its_cores_and_does_not_share_them_among_the_tasks_of_the_node(shards, monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(6), raising=False)
    module = module_of(shards, num_workers=None)
    module.setup()
    module.trainer = SimpleNamespace(num_devices=8)
    assert module._workers() == 1
    for name, value in {"NTASKS": "16", "JOB_NAME": "train", "CPUS_PER_TASK": "6"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert module._workers() == 5


def metrics(run_dir: Path) -> list[dict[str, float]]:
    (file,) = run_dir.glob("csv/*/metrics.csv")
    with file.open() as rows:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(rows)]


@pytest.fixture(scope="module")
def two_devices(tmp_path_factory) -> list[dict[str, float]]:
    """The logged values of a run with trainer=ddp on two devices."""
    folder = tmp_path_factory.mktemp("ddp")
    end(start(str(ROOT / "train.py"), *LONGER, "trainer=ddp", *TINY_RUN, "trainer.devices=2", cwd=folder))
    return metrics(next((folder / "outputs" / "train").iterdir()))


LONGER = ["trainer.max_steps=3", "trainer.val_check_interval=3"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["ddp_spawn", "torchrun", "slurm"])
def test_every_launcher_logs_the_losses_of_ddp_in_one_directory(two_devices, tmp_path, launcher):
    script, run = str(ROOT / "train.py"), partial(start, cwd=tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    if launcher == "ddp_spawn":
        output = end(run(script, "trainer=ddp_spawn", *LONGER, *TINY_RUN, "trainer.devices=2"))
        assert "stopped:    after step 3" in output
    else:
        processes = []
        for rank in range(2):
            clock = {"TZ": f"UTC{rank}"}  # the clocks of the processes differ
            if launcher == "torchrun":
                where = ["--master-addr", "127.0.0.1", "--master-port", address["MASTER_PORT"]]
                node = [
                    "-m",
                    "torch.distributed.run",
                    "--nnodes",
                    "2",
                    "--nproc-per-node",
                    "1",
                    "--node-rank",
                    str(rank),
                ]
                options = [*LONGER, *TINY_RUN, "trainer.devices=1", "trainer.num_nodes=2"]
                processes.append(run(*node, *where, script, *options, **clock))
            else:
                step = {"NTASKS": 2, "NTASKS_PER_NODE": 1, "NNODES": 2, "JOB_ID": 7, "STEP_ID": 0, "JOB_NAME": "x"}
                step |= {"PROCID": rank, "NODEID": rank, "LOCALID": 0}
                step = {f"SLURM_{name}": str(value) for name, value in step.items()}
                processes.append(run(script, "trainer=slurm", *LONGER, *TINY_RUN, **clock, **address, **step))
        for process in processes:
            end(process)
    (run_dir,) = (tmp_path / "outputs" / "train").iterdir()
    assert [row.keys() for row in metrics(run_dir)] == [row.keys() for row in two_devices]
    for row, expected in zip(metrics(run_dir), two_devices, strict=True):
        timed = {name: row[name] for name in row if name == "train/data_wait"}
        assert row == pytest.approx(expected | timed, rel=1e-4)


# ---- shards -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder of 23 images, two of them below the size of a patch."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    for index in range(23):
        write_image(folder / f"{index % 3}" / f"{index:02}.png", height=40 if index > 20 else 96, seed=index)
    return folder


@pytest.fixture(scope="module")
def shards(pictures, tmp_path_factory) -> Path:
    """The pictures in shards of about four images each."""
    out = tmp_path_factory.mktemp("data") / "shards"
    write_shards(pictures, out, shard_bytes=160_000)
    return out


def module_of(root: Path | str, **changes) -> ImageDataModule:
    keys = {"layout": "shards", "root": root, "cache": "none", "patch_size": 64, "batch_size": 2, "num_workers": 0}
    return ImageDataModule.from_config(keys | {"samples_per_epoch": 20, "shuffle_shards": 2} | changes, seed=7)


def test_shards_are_tar_files_of_the_images_as_they_were(pictures, shards):
    index, found = read_index(str(shards)), {}
    tars = sorted(shards.glob("*.tar"))
    assert len(tars) == index.shard[-1] + 1 >= 5
    for number, path in enumerate(tars):
        with tarfile.open(path) as tar:
            names = tar.getnames()
            assert names == [name.decode() for name in index.name[index.shard == number]]
            found |= {name: tar.extractfile(name).read() for name in names}
    assert found == {path.relative_to(pictures).as_posix(): path.read_bytes() for path in list_images(pictures)}
    assert list(found) != sorted(found)
    for name, shard, start_at, length, *_ in zip(*index, strict=True):
        assert tars[shard].read_bytes()[start_at : start_at + length] == found[name.decode()]


def test_the_same_folder_makes_the_same_shards_again(pictures, shards, tmp_path):
    write_shards(pictures, tmp_path / "again", shard_bytes=160_000)
    for path in shards.glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_a_pass_shows_every_image_once_and_mixes_only_shards_taken_together():
    of_image = np.repeat(np.arange(10), 5)
    stream = ShardStream(of_image, together=3, seed=1)
    passes = [[stream.image(number) for number in range(50 * k, 50 * k + 50)] for k in range(4)]
    assert all(sorted(order) == list(range(50)) for order in passes)
    assert len({tuple(order) for order in passes}) == 4
    for order in passes:
        shown = of_image[order]
        groups = [set(shown[first : first + 15]) for first in range(0, 50, 15)]
        assert [len(group) for group in groups] == [3, 3, 3, 1]
        assert len(set().union(*groups)) == 10
    assert len({tuple(order[:5]) for order in passes} | {tuple(range(5))}) == 5
    everything = ShardStream(of_image, together=None, seed=1)
    assert len(set(of_image[[everything.image(number) for number in range(15)]])) > 3


@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (2, 0), (4, 1), (2, 2)])
def test_processes_and_workers_share_a_pass_without_loss_or_doubles(shards, processes, workers):
    seen = []
    for rank in range(processes):
        module = module_of(shards, val_share=1e-9)
        module.setup()
        assert len(module.patches) == 20
        batch_size = 20 // processes
        sampler = StreamSampler(module.patches, 1, batch_size, rank, processes)
        loader = DataLoader(module.patches, batch_size=1, sampler=sampler, collate_fn=collate, num_workers=workers)
        seen += [path for batch in loader for path in batch.path]
    assert len(seen) == len(set(seen)) == 20
    assert set(seen) == {str(path) for path in module.patches.images.paths}


@pytest.mark.parametrize(("steps", "workers"), [(3, 0), (13, 2)])
def test_resuming_in_mid_epoch_shows_exactly_what_the_uninterrupted_run_shows(shards, tmp_path, steps, workers):
    new = partial(module_of, shards)
    whole, _ = fit(new(), tmp_path, max_steps=17)
    before, trainer = fit(new(), tmp_path, max_steps=steps)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    after, _ = fit(new(num_workers=workers), tmp_path, max_steps=17, ckpt_path=tmp_path / "stopped.ckpt")
    assert [seen[1:] for seen in before + after] == [seen[1:] for seen in whole]


def test_shards_hold_out_the_images_that_the_folder_holds_out(pictures, shards):
    streamed, listed = module_of(shards, val_share=0.3), module_of(pictures, layout="folder", val_share=0.3)
    for module in (streamed, listed):
        module.setup()
    held_out = {Path(path).relative_to(pictures).as_posix() for _, path in listed.pictures.samples}
    assert {path for _, path in streamed.pictures.samples} == held_out
    assert {str(path) for path in streamed.patches.images.paths}.isdisjoint(held_out)
    apart = module_of(shards, val_root=pictures / "0")
    apart.setup()
    assert len(apart.patches) == 21
    assert {Path(path).parent for _, path in apart.pictures.samples} == {pictures / "0"}


def test_shards_in_a_store_give_the_patches_of_those_on_disk(shards):
    store = fsspec.filesystem("memory")
    for path in shards.iterdir():
        store.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    remote, local = module_of("memory://bucket", num_workers=2), module_of(shards)
    for module in (remote, local):
        module.setup()
    for one, other in zip(remote.train_dataloader(), local.train_dataloader(), strict=True):
        assert torch.equal(one.image, other.image)
        assert one.path == other.path


def test_a_damaged_shard_costs_its_images_alone_and_they_are_named(shards, tmp_path, caplog):
    for path in shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    os.truncate(tmp_path / "000002.tar", 2000)
    module = module_of(tmp_path, val_share=1e-9)
    module.setup()
    seen = {path for batch in module.train_dataloader() for path in batch.path}
    index = read_index(str(tmp_path))
    lost = {name.decode() for name in index.name[index.shard == 2]}
    assert seen.isdisjoint(lost)
    assert len(seen) > 10
    assert all(f"000002.tar:{name}" in caplog.text for name in lost & {str(p) for p in module.patches.images.paths})


def test_the_command_makes_shards_to_train_from_and_says_what_is_left_out(pictures, tmp_path, capsys):
    source = tmp_path / "source"
    for path in list_images(pictures)[:4]:
        (source / path.name).parent.mkdir(exist_ok=True)
        (source / path.name).write_bytes(path.read_bytes())
    (source / "broken.png").write_text("nothing")
    assert main(["shard", str(source), str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "1 shard, 4 images" in said.out
    assert f"data=shards data.root={tmp_path / 'out'}" in said.out
    assert "broken.png" in said.err
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", ["data=shards", f"data.root={tmp_path / 'out'}", "data.patch_size=64"])
    module = ImageDataModule.from_config(OmegaConf.to_container(cfg.data))
    module.setup()
    assert len(module.patches) + len(module.pictures) == 4


def test_what_cannot_be_sharded_or_trained_on_is_one_clear_line(pictures, shards, tmp_path, capsys):
    for arguments, status, reason in (
        (("shard", pictures, shards), 2, "not an empty folder"),
        (("shard", tmp_path / "nowhere", tmp_path / "out"), 1, "must be a folder of pictures"),
        (("shard", pictures, tmp_path / "out", "--size", "0"), 2, "whole number"),
    ):
        with pytest.raises(SystemExit) if "--size" in arguments else io.StringIO() as ended:
            assert main([str(word) for word in arguments]) == status
        assert not hasattr(ended, "value") or ended.value.code == status
        assert reason in capsys.readouterr().err
    with pytest.raises(DataError, match="agvae shard"):
        module_of(pictures).setup()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / INDEX).write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"damaged/index\.npz cannot be read"):
        module_of(tmp_path / "damaged").setup()
    with pytest.raises(DataError, match="no-such-store"):
        module_of("no-such-store://bucket").setup()
    with pytest.raises(DataError, match=r"23 images, 2\d smaller"):
        module_of(shards, patch_size=256).setup()
    with pytest.raises(ConfigError, match=r"data\.cache must be none"):
        DataConfig.from_dict({"layout": "shards", "root": shards, "cache": "memory"})
    with pytest.raises(ConfigError, match="data=folder"):
        evaluation_images({"layout": "shards", "root": shards, "cache": "none"})


SRUN = """#!/bin/sh
echo "$@" >> calls
mkdir -p outputs/train/slurm-42/checkpoints
touch outputs/train/slurm-42/checkpoints/last.ckpt
[ "$(wc -l < calls)" -gt 1 ] || exit 143
"""


def test_the_slurm_job_is_requeued_when_its_time_is_up_and_goes_on_in_its_directory(tmp_path):
    for name, script in (("srun", SRUN), ("scontrol", '#!/bin/sh\necho "$@" >> requeued\n')):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "42",
        "SLURM_CPUS_PER_TASK": "12",
    }
    command = ["bash", str(ROOT / "examples" / "slurm.sbatch"), "data=shards", "data.root=a b"]
    ended = [subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode for _ in range(2)]
    assert ended == [143, 0]
    assert (tmp_path / "requeued").read_text() == "requeue 42\n"
    first, second = (tmp_path / "calls").read_text().splitlines()
    assert first.startswith("--cpus-per-task=12 ")
    run = "python train.py trainer=slurm hydra.run.dir=outputs/train/slurm-42 data=shards data.root=a b"
    assert first.endswith(run)
    assert second.endswith(f"{run} ckpt_path=outputs/train/slurm-42/checkpoints/last.ckpt")


@pytest.mark.slow
def test_each_job_of_a_sweep_has_its_own_wandb_run(tmp_path):
    options = [*(o for o in TINY_RUN if o != "logger=csv"), "trainer.devices=1", "trainer.max_steps=1"]
    script = str(ROOT / "train.py")
    end(start(script, "-m", "seed=0,1", *options, "trainer.limit_val_batches=0", cwd=tmp_path, WANDB_MODE="offline"))
    (sweep,) = (tmp_path / "multirun" / "train").iterdir()
    ids = [(sweep / job / "wandb_id.txt").read_text().strip() for job in "01"]
    assert ids[0] != ids[1]
    assert all(len(list((sweep / job / "wandb").glob(f"offline-run-*{ids[int(job)]}"))) == 1 for job in "01")
