"""Another entropy model for a trained codec: frozen parts, weights loaded by part, and training on kept latents."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import recording
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from agvae.cli import main as agvae
from agvae.codec import Codec, model_file
from agvae.configuration.training import PARTS
from agvae.data import ImageDataModule
from agvae.data.datasets import collate, collate_latents
from agvae.engine import train
from agvae.errors import ConfigError, DataError
from agvae.models import AGVAE
from agvae.training.latents import keep_latents
from agvae.training.module import AGVAEModule
from agvae.training.resume import SECTIONS, initialise

ROOT = Path(__file__).parents[1]
FROZEN, ANEW = ["g_a", "g_s", "h_a", "gain", "hyper_gain"], ["h_s", "context", "prior"]

TINY_RUN = [
    "model.transforms.N=8",
    "model.transforms.M=12",
    "data.batch_size=2",
    "data.patch_size=64",
    "data.val_crop=64",
    "data.val_images=2",
    "data.samples_per_epoch=6",
    "trainer=cpu",
    "trainer.num_sanity_val_steps=0",
    "trainer.val_check_interval=100",
    "trainer.log_every_n_steps=1",
    "scheduler=constant",
    "optimizer.lr=1e-2",
    "logger=csv",
    "callbacks.progress_bar=null",
    "+trainer.enable_progress_bar=false",
]
ENTROPY_ONLY = [
    "model/context=checkerboard",
    "model.context.width=6",
    f"freeze=[{','.join(FROZEN)}]",
    f"init_except=[{','.join(ANEW)}]",
    "ema.decay=0.9",
]


def configure(run_dir: Path, *overrides: str):
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        return compose("train", [*TINY_RUN, f"run_dir={run_dir}", *overrides])


def load(run_dir: Path) -> dict:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)


def weights_of(checkpoint: dict) -> dict:
    return {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}


def equal(a: dict, b: dict, parts: list[str]) -> dict[str, bool]:
    """Whether both have the same weight, by name, for the weights of these parts."""
    names = [name for name in a if name.partition(".")[0] in parts]
    return {name: name in b and torch.equal(a[name], b[name]) for name in names}


@pytest.fixture(scope="module")
def codec(tmp_path_factory) -> Path:
    """A trained codec without context, as a model file."""
    run_dir = tmp_path_factory.mktemp("codec")
    train(configure(run_dir, "trainer.max_steps=2"))
    path = run_dir / "codec.safetensors"
    model_file.from_checkpoint(run_dir / "checkpoints" / "last.ckpt").save(path)
    return path


@pytest.fixture(scope="module")
def trained(codec, tmp_path_factory) -> Path:
    """A run of six steps of another entropy model on kept latents of the codec, validated after every third step."""
    run_dir = tmp_path_factory.mktemp("trained")
    options = [*ENTROPY_ONLY, f"init_from={codec}", "latents.crops=5", "trainer.val_check_interval=3"]
    train(configure(run_dir, *options, "trainer.max_steps=6"))
    return run_dir


def test_the_schema_names_the_parts_that_a_model_has(tiny_config):
    assert {name for name, _ in AGVAE.from_config(tiny_config).named_children()} == {*PARTS} == {*SECTIONS}


def test_frozen_weights_stay_bit_for_bit_and_so_does_their_average(codec, trained):
    source, checkpoint = model_file.load(codec).weights, load(trained)
    weights = weights_of(checkpoint)
    assert all(equal(weights, source, FROZEN).values())
    assert all(equal(checkpoint["ema"], source, FROZEN).values())
    for part in ANEW:
        assert not all(equal(weights, checkpoint["ema"], [part]).values()), part


def test_the_optimiser_holds_no_frozen_weight(trained):
    checkpoint = load(trained)
    shapes = [tuple(weight.shape) for name, weight in weights_of(checkpoint).items() if name.partition(".")[0] in ANEW]
    held = [tuple(state["exp_avg"].shape) for state in checkpoint["optimizer_states"][0]["state"].values()]
    assert sorted(held) == sorted(shapes)


def test_parts_are_taken_or_start_anew_as_named(codec, tmp_path, caplog):
    still = ["optimizer.lr=0", "optimizer.quantile_lr=0", "trainer.max_steps=1", f"init_from={codec}"]
    with caplog.at_level("INFO"):
        train(configure(tmp_path, *still, "init_except=[prior]", "freeze=[g_a]"))
    source, weights = model_file.load(codec).weights, weights_of(load(tmp_path))
    taken = [part for part in PARTS if part != "prior"]
    assert all(equal(weights, source, taken).values())
    assert not all(equal(weights, source, ["prior"]).values())
    assert f"{codec}: " in caplog.text
    assert "anew: prior" in caplog.text


def test_validation_measures_the_rate_alone_as_the_codec_estimates_it(trained):
    rows = [line.split(",") for line in (trained / "rd.csv").read_text().splitlines()[1:]]
    assert {step for step, *_ in rows} == {"3", "6"}
    assert all(float(bpp) > 0 and psnr == ms_ssim == "nan" for _, _, bpp, psnr, ms_ssim in rows)
    checkpoint, found = load(trained), trained / "checkpoints" / "last.ckpt"
    model = AGVAE.from_config(checkpoint["hyper_parameters"]["model"]).eval()
    model.load_state_dict(model_file.read_checkpoint(found).weights)
    module = ImageDataModule.from_config(dict(configure(trained).data))
    module.setup()
    rates = [model(image[None].float() / 255, 2.0).bits.item() / 64**2 for image, _ in module.pictures.samples]
    logged = next(float(bpp) for step, quality, bpp, *_ in rows if (step, quality) == ("6", "2"))
    assert logged == pytest.approx(np.mean(rates), rel=1e-5)


@pytest.fixture
def rate_module(codec, tmp_path):
    """A module that trains another entropy model for the codec, attached to no trainer, and its data."""

    def make(*overrides: str):
        options = [*ENTROPY_ONLY, f"init_from={codec}", "latents.crops=4", *overrides]
        config = OmegaConf.to_container(configure(tmp_path, *options), resolve=True)
        keys = ("model", "loss", "optimizer", "scheduler", "validation", "seed", "freeze")
        module = AGVAEModule(**{key: config[key] for key in keys})
        initialise(module.model, str(codec), config["init_except"])
        module.memory_format = torch.channels_last  # the order of memory decides the noise
        module.model.to(memory_format=torch.channels_last)
        data = ImageDataModule.from_config(config["data"], seed=0)
        data.setup()
        return module, data.patches, config["latents"]

    return make


@pytest.fixture
def step_loss(monkeypatch):
    """The loss of a training step on a batch, with the same random draws in each call."""
    monkeypatch.setattr("agvae.training.module.batches_done", lambda trainer: 0)
    monkeypatch.setattr("agvae.training.module.logs_after", lambda *_: False)
    monkeypatch.setattr(AGVAEModule, "trainer", None)
    monkeypatch.setattr(AGVAEModule, "global_rank", 0)
    monkeypatch.setattr(AGVAEModule, "global_step", 0)
    monkeypatch.setattr(AGVAEModule, "log", lambda *_, **__: None)
    return lambda module, batch: module.training_step(batch, 0)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 2e-3)])
def test_a_step_on_kept_latents_has_the_loss_of_one_on_their_pictures(rate_module, step_loss, dtype, tolerance):
    module, patches, latents = rate_module(f"latents.dtype={dtype}")
    kept = keep_latents(module, patches, 0, latents)
    assert kept.values.dtype == dtype
    pictures = collate([patches[kept.stream.image(number)] for number in (0, 1)])
    on_latents = collate_latents([kept[number] for number in (0, 1)])
    assert pictures.path == on_latents.path
    ours, theirs = (step_loss(module, batch).item() for batch in (on_latents, pictures))
    assert ours == pytest.approx(theirs, rel=tolerance)
    assert ours > 0


def test_the_gradient_of_the_rate_alone_is_that_of_the_whole_loss(rate_module, step_loss):
    """With g_a, g_s and the gains frozen, the distortion teaches the entropy model nothing."""
    module, patches, _ = rate_module("model/quantizer=mixed")
    batch = collate([patches[number] for number in range(2)])
    gradients = []
    for rate_only in (True, False):
        module.rate_only = rate_only
        module.zero_grad()
        step_loss(module, batch).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in module.model.network_parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(codec, trained, tmp_path):
    options = [*ENTROPY_ONLY, f"init_from={codec}", "latents.crops=5", "trainer.val_check_interval=3"]
    train(configure(tmp_path, *options, "trainer.max_steps=2"))
    train(configure(tmp_path, *options, "trainer.max_steps=6", "ckpt_path=last"))
    resumed, whole = load(tmp_path), load(trained)
    assert resumed["global_step"] == whole["global_step"] == 6
    for key in ("state_dict", "ema"):
        assert all(torch.equal(resumed[key][name], whole[key][name]) for name in whole[key])


def test_latents_are_computed_once_and_an_interrupted_computation_goes_on(trained, codec, tmp_path, monkeypatch):
    (whole,) = (trained / "latents").glob("*/latents.bin")
    shutil.copytree(trained / "latents", tmp_path / "latents")
    (part,) = (tmp_path / "latents").glob("*/latents.bin")
    options = [*ENTROPY_ONLY, f"init_from={codec}", f"latents.folder={tmp_path / 'latents'}", "trainer.max_steps=1"]
    calls = []
    original = AGVAE.latent
    monkeypatch.setattr(AGVAE, "latent", lambda self, x: calls.append(len(x)) or original(self, x))
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])  # ends within the third of five latents
    train(configure(tmp_path / "run", *options, "latents.crops=5", "trainer.limit_val_batches=0"))
    assert calls == [3]
    assert part.read_bytes() == whole.read_bytes()
    train(configure(tmp_path / "again", *options, "latents.crops=5", "trainer.limit_val_batches=0"))
    assert calls == [3]


@torch.no_grad()
def test_the_run_exports_to_a_codec_that_decodes_what_it_encoded(trained, tmp_path, photo):
    path = tmp_path / "model.safetensors"
    assert agvae(["export", str(trained / "checkpoints" / "last.ckpt"), str(path)]) in (0, None)
    picture = photo.crop((0, 0, 128, 64))
    blob = Codec.load(path).compress(picture, quality=5)
    _, z_read, y_read = recording(Codec.load(path), blob)
    model = model_file.load(path).build()
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    coded = model.code(model.latent(x), 5.0)
    assert np.array_equal(np.sort(y_read), np.sort(coded.symbols.numpy().ravel()))
    assert np.array_equal(np.sort(z_read), np.sort(coded.z_symbols.numpy().ravel()))
    assert np.unique(y_read).size > 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["freeze=[g_z]"], r"freeze must name parts of the model .*, not g_z: the nearest is g_"),
        (["freeze=[hypergain]"], "the nearest is hyper_gain"),
        (["init_except=[contxt]"], "the nearest is context"),
        (["freeze=g_a"], "freeze must be a list of parts of the model, not g_a"),
        (["freeze=[g_a]", "init_from=null"], "set init_from"),
        (["freeze=[g_a,prior]", "init_except=[prior]"], "must not both name prior"),
        (["freeze=[hyper_gain]", "model/gain=cvr"], "must not name hyper_gain"),
        ([f"freeze=[{','.join(PARTS)}]"], "leave a part to train"),
        (["freeze=[g_a,g_s]", "latents.crops=4"], "freeze must hold gain"),
        (["freeze=[g_a,g_s,gain]", "latents.crops=4", "compile=true"], "compile must be false"),
        (["freeze=[g_a,g_s,gain]", "latents.crops=9999999", "latents.gib=1"], r"takes .* GiB .*latents\.gib=1:"),
        (["freeze=[g_a]", "trainer.strategy=fsdp", "trainer.precision=32-true"], "freeze must be .. under FSDP"),
        (["freeze=[g_a]", "model.entropy.form=two_piece"], r"model\.entropy\.form=half_mass.*init_except"),
        (["freeze=[g_a]", "model.transforms.N=16", "init_except=[h_s,context,prior]"], r"model\.transforms\.N=8"),
    ],
)
def test_choices_that_cannot_work_are_refused_in_one_line(codec, tmp_path, overrides, message):
    source = [] if "init_from=null" in overrides else [f"init_from={codec}"]
    with pytest.raises(ConfigError, match=message) as refused:
        train(configure(tmp_path, *source, *overrides, "trainer.max_steps=1"))
    assert "\n" not in str(refused.value)


def test_a_resumed_run_keeps_its_frozen_parts(trained):
    with pytest.raises(ConfigError, match="must keep freeze="):
        train(configure(trained, *ENTROPY_ONLY, "freeze=[g_a]", "ckpt_path=last", "trainer.max_steps=9"))


def test_a_latent_too_large_for_float16_is_refused(codec, tmp_path, monkeypatch):
    original = AGVAE.latent
    monkeypatch.setattr(AGVAE, "latent", lambda self, x: 1e6 * original(self, x) + 1e6)
    options = [*ENTROPY_ONLY, f"init_from={codec}", "latents.crops=2", "trainer.max_steps=1"]
    with pytest.raises(DataError, match=r"too large for float16: set latents\.dtype=float32"):
        train(configure(tmp_path, *options))


# --- the benchmark that compares entropy models


@pytest.fixture(scope="module")
def entropy_models():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import entropy_models

        yield entropy_models
        for name in ("entropy_models", "common", "variants"):
            sys.modules.pop(name, None)


@pytest.mark.slow
def test_the_arms_of_a_question_differ_in_the_entropy_model_alone(entropy_models):
    for question, changed in (("entropy", "entropy"), ("contexts", "context")):
        models, others = set(), set()
        for setting in entropy_models.QUESTIONS[question].values():
            overrides = ["experiment=entropy_only", *setting, "run_dir=."]
            with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
                config = OmegaConf.to_container(compose("train", overrides), resolve=True)
            models.add(str(config["model"].pop(changed)))
            others.add(str(config))
        assert len(models) == len(entropy_models.QUESTIONS[question])
        assert len(others) == 1


def test_rates_are_compared_with_those_of_the_first_arm_and_the_same_seed(entropy_models, capsys):
    def result(*levels):
        return {"validation": {"1": [9.0, 9.0], "2": list(levels)}, "images": {"a": list(levels), "b": list(levels)}}

    first = {"0": result(1.0, 2.0), "1": result(2.0, 4.0)}
    other = {"0": result(0.9, 2.0), "1": result(2.2, 5.0), "2": result(9.0, 9.0)}
    for where in ("held-out", "images"):
        assert entropy_models.relative(other, first, where) == [
            "+0.00 % (-10.00 to +10.00)",
            "+12.50 % (+0.00 to +25.00)",
        ]
    assert entropy_models.relative({"0": other["0"]}, first, "images") == ["-10.00 %", "+0.00 %"]
    entropy_models.show("entropy", {"symmetric": first, "other": other})
    assert "| symmetric, bpp | 2 | 1.5000 | 3.0000 |" in capsys.readouterr().out
