import hashlib
import http.server
import json
import logging
import os
import resource
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf
from PIL import Image

from agvae.data import Batch, DataConfig, ImageDataModule, evaluation_images, list_images
from agvae.data.bundled_photos import HELD_OUT, TRAIN, sample_photos
from agvae.data.cache import DiskImages, fingerprint
from agvae.data.datasets import centre_crop
from agvae.data.download import KODAK_SHA256, download
from agvae.data.layouts import find_files, hold_out
from agvae.data.sample_stream import SampleStream, StreamSampler
from agvae.errors import ConfigError, DataError
from agvae.images import load_rgb

CONF = Path(__file__).parents[1] / "conf"


def write_image(path: Path, height: int = 96, width: int = 128, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])  # the header is complete


@pytest.fixture
def folder(tmp_path):
    for index in range(10):
        write_image(tmp_path / "images" / f"{index}.png", seed=index)
    return tmp_path / "images"


def module_of(root: Path, **changes) -> ImageDataModule:
    keys = {"root": root, "patch_size": 64, "batch_size": 4, "samples_per_epoch": 20, "num_workers": 0}
    return ImageDataModule.from_config(keys | changes, seed=7)


# ---- which files ------------------------------------------------------------------------------------------------


def test_images_are_listed_recursively_in_a_fixed_order_whatever_their_case(tmp_path):
    for name in ("b/2.JPG", "b/10.jpeg", "a.PNG", "c.webp", ".thumbs/x.png", "._a.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert names == ["a.PNG", "b/10.jpeg", "b/2.JPG", "c.webp"]
    with pytest.raises(DataError, match="nowhere is not a folder"):
        list_images(tmp_path / "nowhere")


def test_holding_out_is_stable_when_files_come_and_never_empty():
    keys = [f"{index}.png" for index in range(1000)]
    chosen = dict(zip(keys, hold_out(keys, 0.1), strict=True))
    assert 70 < sum(chosen.values()) < 130
    fewer = keys[::2]
    assert hold_out(fewer, 0.1) == [chosen[key] for key in fewer]
    assert sum(hold_out(keys[:3], 1e-9)) == 1
    assert sorted(hold_out(["a", "b"], 0.999999)) == [False, True]
    assert hold_out([], 0.1) == []


def test_the_sample_is_colour_photos_with_no_scene_on_both_sides():
    for path in sample_photos(TRAIN + HELD_OUT):
        pixels = load_rgb(path).astype(int)
        assert min(pixels.shape[:2]) >= 256
        assert np.abs(pixels[..., 0] - pixels[..., 2]).mean() > 5, "grey"
    scenes = [{name.split("_")[0].split(".")[0] for name in side} for side in (TRAIN, HELD_OUT)]
    assert scenes[0].isdisjoint(scenes[1])


def test_a_scikit_image_without_a_photo_is_an_error_that_names_it(tmp_path):
    with pytest.raises(DataError, match=r"has no coffee\.png"):
        sample_photos(("coffee.png",), tmp_path)


def layout(name: str, root: Path, **changes):
    return find_files(DataConfig(layout=name, root=root, **changes))


def test_clic2020_is_found_in_every_way_it_is_unpacked(tmp_path):
    for name in ("train/1.png", "mobile/train/2.png", "professional_train_2020/3.png"):
        write_image(tmp_path / name)
    for name in ("valid/4.png", "mobile_valid_2020/valid/5.png", "test/6.png"):
        write_image(tmp_path / name)
    files = layout("clic2020", tmp_path)
    assert sorted(path.stem for path in files.train) == ["1", "2", "3"]
    assert sorted(path.stem for path in files.held_out) == ["4", "5"]
    assert files.evaluate == files.held_out


def test_div2k_is_found_by_its_folders(tmp_path):
    write_image(tmp_path / "DIV2K_train_HR/0001.png")
    with pytest.raises(DataError, match=r"DIV2K_valid_HR.*get it from https"):
        layout("div2k", tmp_path)
    write_image(tmp_path / "DIV2K_valid_HR/0801.png")
    files = layout("div2k", tmp_path)
    assert [path.name for path in (*files.train, *files.held_out)] == ["0001.png", "0801.png"]


def test_vimeo90k_follows_its_lists_and_never_splits_a_sequence(tmp_path):
    for sequence in range(1, 9):
        for frame in range(1, 4):
            write_image(tmp_path / f"sequences/00001/{sequence:04}/im{frame}.png")
    files = layout("vimeo90k", tmp_path, val_share=0.3)
    assert {path.parent for path in files.train}.isdisjoint(path.parent for path in files.held_out)
    (tmp_path / "sep_trainlist.txt").write_text("00001/0001\n00001/0003\n")
    (tmp_path / "sep_testlist.txt").write_text("00001/0002\n")
    files = layout("vimeo90k", tmp_path)
    assert [path.parent.name for path in files.train] == ["0001"] * 3 + ["0003"] * 3
    assert [path.relative_to(tmp_path).as_posix() for path in files.held_out] == ["sequences/00001/0002/im1.png"]


def test_tecnick_takes_the_unshifted_colour_pictures_of_full_size(tmp_path):
    for name in ("RGB/1200x1200/C00C00/1.png", "RGB/1200x1200/H01W01/1.png", "RGB/600x600/C00C00/1.png"):
        write_image(tmp_path / name)
    write_image(tmp_path / "GRAY/1200x1200/C00C00/1.png")
    name, images = evaluation_images({"layout": "tecnick", "name": "tecnick", "root": tmp_path})
    assert (name, images) == ("tecnick", [tmp_path / "RGB/1200x1200/C00C00/1.png"])


def test_kodak_is_all_24_or_says_how_many_are_missing(tmp_path, caplog):
    with pytest.raises(DataError, match=r"lacks 24 .*kodim01\.png.*data\.download=true"):
        layout("kodak", tmp_path)
    for name in list(KODAK_SHA256)[:23]:
        (tmp_path / name).touch()
    assert len(layout("kodak", tmp_path).evaluate) == 23
    assert "lacks 1 of Kodak's 24 images (kodim24.png first)" in caplog.text
    (tmp_path / "KODIM24.PNG").touch()
    assert len(layout("kodak", tmp_path).evaluate) == 24


def test_evaluation_runs_over_held_out_photos_or_a_whole_folder(folder):
    name, images = evaluation_images({"layout": "sample", "name": "sample"})
    assert (name, [path.name for path in images]) == ("sample", list(HELD_OUT))
    assert evaluation_images({"root": folder}) == ("images", list_images(folder))
    assert evaluation_images({"root": folder, "name": "mine"})[0] == "mine"
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="no images to evaluate on"):
        evaluation_images({"root": folder / "empty"})


@pytest.mark.parametrize("spelling", ["{}/held", "{}/held/", "{}/../{name}/held", "held", "{}/link"])
def test_a_held_out_folder_inside_the_training_folder_is_not_trained_on(folder, monkeypatch, spelling):
    write_image(folder / "held" / "deep" / "0.png")
    (folder / "link").symlink_to("held")
    monkeypatch.chdir(folder)
    files = find_files(DataConfig(root=folder, val_root=spelling.format(folder, name=folder.name)))
    assert len(files.train) == 10
    assert [path.name for path in files.held_out] == ["0.png"]


# ---- configuration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"layout": "div2k"}, r"data\.root must be .* not null: data=div2k"),
        ({"layout": "sample", "root": "x"}, "add data=folder"),
        ({"layout": "sample", "patchsize": 64}, r"data\.patchsize is not a key.*nearest is data\.patch_size"),
        ({"layout": "sample", "patch_size": 100}, r"data\.patch_size must be a multiple of 64 .*, not 100"),
        ({"layout": "sample", "patch_size": None}, r"data\.patch_size must be a multiple of 64 .*, not null"),
        ({"layout": "sample", "batch_size": "many"}, r"data\.batch_size must be a whole number .*, not many"),
        ({"layout": "sample", "val_share": 1.0}, r"data\.val_share must be a number between 0 and 1, not 1\.0"),
        ({"layout": "sample", "cache": "tape"}, r"data\.cache must be memory, device, disk or none, not tape"),
        ({"layout": "sample", "cache": "device", "num_workers": 2}, r"data\.num_workers must be null"),
        ({"layout": "sample", "cache_gib": "4GB"}, r"data\.cache_gib must be a number from 0 on, not 4GB"),
        ({"layout": "imagenet"}, r"data\.layout must be sample, folder, .*, not imagenet"),
        ({"layout": "kodak", "root": "x"}, "data=kodak is only for evaluation: to train"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_one_clear_line(keys, message):
    with pytest.raises(ConfigError, match=message) as error:
        ImageDataModule.from_config(keys)
    assert "\n" not in str(error.value)


def test_a_tilde_is_the_home_folder():
    assert DataConfig.from_dict({"root": "~/photos"}).root == Path.home() / "photos"


def compose_data(name: str) -> dict:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose(overrides=[f"+data={name}"]).data)


def test_presets_hold_every_key_and_folder_holds_the_defaults():
    presets = {path.stem: compose_data(path.stem) for path in (CONF / "data").glob("*.yaml")}
    assert set(presets) == {"sample", "folder", "clic2020", "div2k", "vimeo90k", "kodak", "tecnick", "shards"}
    for name, keys in presets.items():
        assert keys["layout"] == name
        root = {} if name == "sample" else {"root": "somewhere"}
        DataConfig.from_dict(keys | root)
    defaults = vars(DataConfig(root="somewhere"))
    assert presets["folder"] | {"root": "somewhere"} == defaults


def test_the_default_data_set_gives_batches_of_photos():
    module = ImageDataModule.from_config(compose_data("sample"), seed=1)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert isinstance(batch, Batch)
    assert (batch.image.shape, batch.image.dtype) == ((16, 3, 256, 256), torch.uint8)
    assert {Path(path).name for path in batch.path} == set(TRAIN)
    pictures = list(module.val_dataloader())
    assert [tuple(picture.image.shape) for picture in pictures] == [(1, 3, 256, 448), (1, 3, 384, 512)]


# ---- samples ----------------------------------------------------------------------------------------------------


def test_a_pass_shows_every_image_once_in_an_order_of_its_own():
    stream = SampleStream(count=50, seed=3)
    passes = [[stream.image(number) for number in range(50 * k, 50 * (k + 1))] for k in range(3)]
    assert all(sorted(order) == list(range(50)) for order in passes)
    assert len({tuple(order) for order in passes}) == 3


def test_samples_depend_on_seed_and_number_alone():
    walked, jumped, other = (SampleStream(count=50, seed=seed) for seed in (3, 3, 4))
    for number in range(120):
        walked.image(number)
    assert walked.image(77) == jumped.image(77)
    crops = [[stream.crop(number, 300, 200, 64) for number in range(40)] for stream in (walked, jumped, other)]
    assert crops[0] == crops[1] != crops[2]


def test_crops_reach_every_edge_and_mirror_half_of_the_time():
    stream = SampleStream(count=1, seed=0)
    crops = np.array([stream.crop(number, 66, 65, 64) for number in range(600)])
    assert set(crops[:, 0]) == {0, 1, 2}
    assert set(crops[:, 1]) == {0, 1}
    assert 0.4 < crops[:, 2].mean() < 0.6


def test_processes_share_the_stream_without_loss_or_doubles():
    data = range(10)
    one = list(StreamSampler(data, batches=3, batch_size=8))
    parts = [list(StreamSampler(data, 3, 2, rank, 4)) for rank in range(4)]
    assert sorted(chain(*parts)) == one == list(range(24))
    first_batches = sorted(number for part in parts for number in part[:2])
    assert first_batches == one[:8]


def test_epochs_follow_on_one_another():
    position = iter([0, 3, 6])
    sampler = StreamSampler(range(10), batches=3, batch_size=4, position=lambda: next(position))
    assert [*sampler, *sampler, *sampler] == list(range(36))


@pytest.mark.parametrize("cache", ["device", "disk", "none"])
def test_patches_are_cut_from_the_named_image_and_alike_however_it_is_kept(folder, tmp_path, cache):
    truncate(folder / "4.png")
    cached, other = module_of(folder, cache="memory"), module_of(folder, cache=cache, cache_dir=tmp_path / "cache")
    seen = [fit(module, tmp_path, max_steps=8)[0] for module in (cached, other)]
    assert seen[0] == seen[1]
    for one, two in zip(cached.train_dataloader(), other.train_dataloader(), strict=True):
        assert torch.equal(one.image, two.image)
        assert one.path == two.path
    patch, path = cached.patches[5]
    image = load_rgb(path)
    top, left, mirrored = cached.patches.stream.crop(5, 96, 128, 64)
    cut = image[top : top + 64, left : left + 64][:, :: -1 if mirrored else 1]
    assert np.array_equal(patch.permute(1, 2, 0), cut)


def test_a_cached_data_set_is_decoded_once(folder, monkeypatch):
    calls = []
    monkeypatch.setattr("agvae.data.datasets.load_rgb", lambda path: calls.append(path) or load_rgb(path))
    module = module_of(folder)
    module.setup("fit")
    for _ in range(2):
        list(module.train_dataloader())
    assert len(calls) == len(set(calls)) == 10


def test_a_disk_cache_is_made_once_for_all_runs_and_anew_for_a_file_that_changed(folder, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("agvae.data.cache.load_rgb", lambda path: calls.append(path) or load_rgb(path))
    truncate(folder / "4.png")

    def decoded() -> int:
        calls.clear()
        module = module_of(folder, cache="disk", cache_dir=tmp_path / "cache")
        module.setup("fit")
        assert [str(folder / "4.png") in batch.path for batch in module.train_dataloader()] == [False] * 5
        return len(calls)

    once = decoded()
    assert once == 9  # one of the ten is held out
    assert decoded() == 0
    write_image(folder / "4.png", 100, 200)
    calls.clear()
    module = module_of(folder, cache="disk", cache_dir=tmp_path / "cache")
    module.setup("fit")
    assert len(calls) == once
    assert module.patches.images[module.patches.images.paths.index(folder / "4.png")].shape == (100, 200, 3)


def test_those_who_need_one_disk_cache_at_once_build_it_once_also_after_one_that_was_killed(
    folder, tmp_path, monkeypatch
):
    calls = []
    monkeypatch.setattr("agvae.data.cache.load_rgb", lambda path: calls.append(path) or load_rgb(path))
    cache, paths = tmp_path / "cache", sorted(folder.iterdir())
    left = cache / f"building-{fingerprint(paths)}-0"
    left.mkdir(parents=True)
    (left / "pixels.u8").write_bytes(b"half")
    with ThreadPoolExecutor() as pool:  # each thread opens the lock itself, as a process does
        built = list(pool.map(lambda _: DiskImages(paths, cache), range(4)))
    assert sorted(calls) == paths
    assert sorted(path.name for path in cache.iterdir()) == [fingerprint(paths), f"{fingerprint(paths)}.lock"]
    for images in built:
        assert all(np.array_equal(images[index], load_rgb(path)) for index, path in enumerate(paths))


def test_a_disk_without_room_for_the_cache_is_said_and_training_reads_the_files(folder, tmp_path, caplog):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    module = module_of(folder, cache="disk", cache_dir=tmp_path / "cache")
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        module.setup("fit")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "data.cache=disk cannot be used" in caplog.text
    assert "too large" in caplog.text
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert len(list(module.train_dataloader())) == 5


def test_the_time_waited_for_batches_is_counted(folder):
    module = module_of(folder, cache="none")
    module.setup("fit")
    loader = module.train_dataloader()
    start = time.perf_counter()
    for _ in loader:
        time.sleep(0.01)
    assert 0 < loader.waited <= time.perf_counter() - start - 0.05


def test_a_data_set_over_the_limit_is_not_cached_and_says_so(folder, caplog):
    module = module_of(folder, cache_gib=1e-5)
    with caplog.at_level(logging.WARNING):
        module.setup("fit")
    assert "more than data.cache_gib=1e-05" in caplog.text
    assert len(list(module.train_dataloader())) == 5


def test_the_sides_are_disjoint_and_complete(folder):
    module = module_of(folder, val_share=0.3, val_images=None)
    module.setup("fit")
    train, held_out = module.patches.images.paths, [Path(path) for _, path in module.pictures.samples]
    assert sorted([*train, *held_out]) == list_images(folder)
    assert 1 <= len(held_out) <= 6


def test_validation_is_cropped_around_the_centre_to_what_the_model_takes():
    image = np.arange(200 * 135 * 3).reshape(200, 135, 3)
    assert np.array_equal(centre_crop(image, 512), image[4:196, 3:131])
    assert centre_crop(image, 64).shape == (64, 64, 3)
    assert centre_crop(image, None).shape == (192, 128, 3)


# ---- bad files --------------------------------------------------------------------------------------------------


def test_small_and_unreadable_files_are_reported_once_and_left_out(folder, caplog):
    for index in range(5):
        write_image(folder / f"small{index}.png", height=40)
    (folder / "broken.png").write_text("nothing")
    module = module_of(folder, val_root=folder / "held", val_images=2)
    write_image(folder / "held" / "1.png")
    with caplog.at_level(logging.WARNING):
        module.setup("fit")
        module.setup("validate")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "1 of 16 images cannot be read" in lines[0]
    assert "broken.png" in lines[0]
    assert "5 of 15 images are smaller than data.patch_size=64" in lines[1]
    assert "small0.png" in lines[1]
    assert len(module.patches) == 10


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_a_damaged_file_is_named_once_and_the_same_image_stands_in_for_it(folder, caplog, cache):
    for name in ("3.png", "5.png"):
        truncate(folder / name)

    def run():
        module = module_of(folder, cache=cache, val_share=1e-9)
        module.setup("fit")
        return [path for _ in range(2) for batch in module.train_dataloader() for path in batch.path]

    with caplog.at_level(logging.WARNING):
        paths = run()
    assert len(paths) == 40
    assert not {Path(path).name for path in paths} & {"3.png", "5.png"}
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert all("unreadable image skipped" in line for line in lines)
    assert "(2 of 9 so far)" in lines[1]
    assert run() == paths


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_breaks_in_mid_epoch_does_not_stop_training(folder, workers):
    module = module_of(folder, cache="none", num_workers=workers, val_share=1e-9)
    module.setup("fit")
    loader = module.train_dataloader()
    expected = [batch.path for batch in loader]
    broken = Path(expected[0][0])
    broken.unlink()
    paths = [batch.path for batch in loader]
    assert all(
        (before == after) if Path(before) != broken else (Path(after) != broken)
        for one, other in zip(expected, paths, strict=True)
        for before, after in zip(one, other, strict=True)
    )
    assert int(module.patches.unreadable.sum()) == 1


def test_nothing_usable_is_one_clear_error(folder, tmp_path):
    with pytest.raises(DataError, match=r"images has no image to train on: 10 files, 0 unreadable, 9 smaller"):
        module_of(folder, patch_size=256, val_share=1e-9).setup("fit")
    for path in list_images(folder):
        truncate(path)
    held = write_image(tmp_path / "held" / "0.png").parent
    with pytest.raises(DataError, match="none of the 10 training images can be read"):
        module_of(folder, val_root=held).setup("fit")
    for path in list_images(folder):
        path.write_text("")
    with pytest.raises(DataError, match="10 files, 10 unreadable"):
        module_of(folder, val_root=held).setup("fit")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no image to train on: 0 files.*check data\.root"):
        module_of(tmp_path / "empty").setup("fit")
    with pytest.raises(DataError, match=r"only one readable image.*data\.val_root"):
        module_of(held).setup("fit")


def test_a_folder_that_vanishes_stops_training_with_a_clear_error(folder):
    module = module_of(folder, cache="none")
    module.setup("fit")
    for path in list_images(folder):
        path.unlink()
    with pytest.raises(DataError, match="training images can be read"):
        list(module.train_dataloader())


# ---- Lightning --------------------------------------------------------------------------------------------------


class Recorder(LightningModule):
    """A model that records the batches that it gets."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((batch_idx, batch.path, int(batch.image.sum(dtype=torch.int64))))
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module, tmp_path, ckpt_path=None, callbacks=(), **options):
    recorder = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(recorder, datamodule=module, ckpt_path=ckpt_path)
    return recorder.seen, trainer


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("steps", [1, 5, 8, 10])
def test_resuming_shows_exactly_the_batches_of_the_uninterrupted_run(folder, tmp_path, workers, steps, recwarn):
    new = partial(module_of, folder, num_workers=workers)  # 5 batches an epoch
    whole, _ = fit(new(), tmp_path, max_steps=13)
    before, trainer = fit(new(), tmp_path, max_steps=steps)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    torch.load(tmp_path / "stopped.ckpt", weights_only=True)
    after, _ = fit(new(), tmp_path, max_steps=13, ckpt_path=tmp_path / "stopped.ckpt")
    assert [seen[1:] for seen in before + after] == [seen[1:] for seen in whole]
    assert not [warning for warning in recwarn if "not resumable" in str(warning.message)]


def test_resuming_by_epochs_shows_exactly_the_batches_of_the_uninterrupted_run(folder, tmp_path):
    whole, _ = fit(module_of(folder), tmp_path, max_epochs=4)
    before, trainer = fit(module_of(folder), tmp_path, max_epochs=2)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    after, _ = fit(module_of(folder), tmp_path, max_epochs=4, ckpt_path=tmp_path / "stopped.ckpt")
    assert before + after == whole
    assert len(whole) == 20


class SaveThenFail(Callback):
    """Writes a checkpoint after batch `at`, as ModelCheckpoint does, and fails two batches later."""

    def __init__(self, at, path):
        self.at, self.path = at, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.at:
            trainer.save_checkpoint(self.path)
        if trainer.global_step == self.at + 2:
            raise RuntimeError("power cut")


@pytest.mark.parametrize("at", [2, 5, 6])
def test_resuming_after_a_crash_goes_on_from_the_checkpoint(folder, tmp_path, at):
    path = tmp_path / "last.ckpt"
    whole, _ = fit(module_of(folder), tmp_path, max_epochs=3)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(module_of(folder), tmp_path, max_epochs=3, callbacks=[SaveThenFail(at, path)])
    after, _ = fit(module_of(folder), tmp_path, max_epochs=3, ckpt_path=path)
    assert [seen[1:] for seen in after] == [seen[1:] for seen in whole[at:]]


def test_shorter_epochs_do_not_leave_images_out(folder, tmp_path):
    whole, _ = fit(module_of(folder), tmp_path, max_steps=6)
    short, _ = fit(module_of(folder), tmp_path, max_steps=6, limit_train_batches=2)
    assert [seen[1:] for seen in short] == [seen[1:] for seen in whole]


def test_overfitting_repeats_the_same_batches(folder, tmp_path):
    with pytest.warns(UserWarning, match="overfit"):
        seen, _ = fit(module_of(folder), tmp_path, max_epochs=2, overfit_batches=2)
    assert seen[:2] == seen[2:]


def test_a_resume_with_other_images_says_so(folder, tmp_path, caplog):
    _, trainer = fit(module_of(folder), tmp_path, max_steps=2)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    write_image(folder / "new.png")
    with caplog.at_level(logging.WARNING):
        fit(module_of(folder), tmp_path, max_steps=4, ckpt_path=tmp_path / "stopped.ckpt")
    assert "differ from those of the checkpoint" in caplog.text


DDP = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_data import fit, module_of

if __name__ == "__main__":
    root, out = Path({folder!r}), Path({out!r})
    module = module_of(root, batch_size=2)
    seen, trainer = fit(module, out, max_steps=7, devices=2, strategy="ddp")
    pictures = [batch.path for batch in trainer.val_dataloaders]
    (out / f"{{trainer.global_rank}}.json").write_text(json.dumps([seen, pictures]))
"""


@pytest.mark.slow
def test_two_processes_see_together_what_one_sees_with_nothing_else_set(folder, tmp_path):
    script = tmp_path / "ddp.py"
    script.write_text(DDP.format(tests=str(Path(__file__).parent), folder=str(folder), out=str(tmp_path)))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, script], check=True, timeout=120, env=environment, capture_output=True)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    alone, trainer = fit(module_of(folder), tmp_path, max_steps=7)
    for step, (_, paths, _) in enumerate(alone):
        together = [path for pair in zip(ranks[0][0][step][1], ranks[1][0][step][1], strict=True) for path in pair]
        assert together == paths
    assert ranks[0][1] == ranks[1][1] == [batch.path for batch in trainer.val_dataloaders]


# ---- download ---------------------------------------------------------------------------------------------------


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    (tmp_path / "site").mkdir()
    for name in ("one.png", "two.png"):
        (tmp_path / "site" / name).write_bytes(name.encode() * 1000)
    handler = partial(QuietHandler, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def sum_of(name: str) -> str:
    return hashlib.sha256(name.encode() * 1000).hexdigest()


def test_downloaded_files_are_whole_and_fetched_once(server, tmp_path):
    sums = {name: sum_of(name) for name in ("one.png", "two.png")}
    target = tmp_path / "new" / "kodak"
    download(target, sums, server)
    assert sorted(path.name for path in target.iterdir()) == ["one.png", "two.png"]
    download(target, sums, "http://127.0.0.1:9")  # nothing is requested from this address


def test_a_file_with_a_wrong_sum_is_refused_and_leaves_nothing(server, tmp_path):
    target = tmp_path / "kodak"
    with pytest.raises(DataError, match=r"one\.png returned a file with SHA-256"):
        download(target, {"one.png": sum_of("two.png")}, server)
    assert list(target.iterdir()) == []
    (target / "one.png").write_bytes(b"mine")
    with pytest.raises(DataError, match="differs from the published file"):
        download(target, {"one.png": sum_of("one.png")}, server)
    assert (target / "one.png").read_bytes() == b"mine"


def test_no_network_and_missing_files_are_one_clear_line(server, tmp_path):
    for address in ("http://127.0.0.1:9", server):
        with pytest.raises(DataError, match=r"could not be fetched .*put the file into") as error:
            download(tmp_path / "kodak", {"three.png": "0"}, address)
        assert "\n" not in str(error.value)
    assert list((tmp_path / "kodak").iterdir()) == []


def test_only_kodak_can_be_downloaded(tmp_path):
    with pytest.raises(ConfigError, match="data=kodak, not with data=div2k: get it from https"):
        layout("div2k", tmp_path, download=True)
    assert len(KODAK_SHA256) == 24
    assert all(len(bytes.fromhex(value)) == 32 for value in KODAK_SHA256.values())
