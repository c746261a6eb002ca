"""CompressAI's models can be trained like AG-VAE, evaluated as codecs, and imported as AG-VAE."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai.losses import RateDistortionLoss
from compressai.models import JointAutoregressiveHierarchicalPriors, MeanScaleHyperprior, MeanScaleHyperpriorVbr
from hydra import compose, initialize_config_dir
from PIL import Image

from agvae import Codec
from agvae.cli import main
from agvae.codec import model_file
from agvae.engine import evaluate, train
from agvae.errors import ConfigError, DataError
from agvae.evaluation import MissingCodecError, available_codecs, stand_in
from agvae.evaluation.peers import PeerCodec, peer_codec
from agvae.models.from_compressai import from_compressai
from agvae.models.peers import LAMBDAS, PeerModel, widths_by_quality
from agvae.models.trainable import build_model
from agvae.training.module import AGVAEModule, step_seed

CONF = str(Path(__file__).parents[1] / "conf")
CHENG = ["cheng2020-anchor", "cheng2020-attn"]
FIXED = ["bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean", "mbt2018", *CHENG]
VARIABLE = ["bmshj2018-hyperprior-vbr", "mbt2018-mean-vbr", "mbt2018-vbr"]
SMALL_RUN = [
    "model=compressai",
    "model.N=8",
    "model.M=12",
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.num_sanity_val_steps=0",
    "trainer.val_check_interval=100",
    "trainer.log_every_n_steps=1",
    "trainer.max_steps=3",
    "scheduler=constant",
    "scheduler.warmup_steps=0",
    "optimizer.lr=1e-3",
    "data.batch_size=2",
    "data.patch_size=64",
    "data.val_crop=64",
    "data.samples_per_epoch=6",
    "logger=csv",
    "callbacks.progress_bar=null",
    "+trainer.enable_progress_bar=false",
]


def configure(run_dir: Path, *overrides: str):
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        return compose("train", [*SMALL_RUN, f"run_dir={run_dir}", *overrides])


def small(architecture: str) -> PeerModel:
    torch.manual_seed(0)
    model = PeerModel(architecture, 3, N=8, M=None if architecture.startswith("cheng") else 12)
    with torch.no_grad():
        *_, last = (layer for layer in model.net.g_a.modules() if isinstance(layer, torch.nn.Conv2d))
        last.weight *= 20  # symbols other than 0
    return model.eval()


@pytest.fixture
def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 101, 3), dtype=np.uint8))


# --- training


@pytest.mark.parametrize("name", FIXED + VARIABLE)
def test_every_architecture_gives_rate_picture_and_gradients(name):
    model = small(name).train()
    x = torch.rand(2, 3, 64, 64)
    out = model(x, torch.tensor([0.0, model.levels - 1.0]))
    assert out.x_hat.shape == x.shape
    assert out.bits.shape == (2,)
    (out.bits.sum() + out.x_hat.square().sum() + model.aux_loss()).backward()
    network, quantiles = model.network_parameters(), model.quantile_parameters()
    assert not {*map(id, network)} & {*map(id, quantiles)}
    assert all(p.grad is not None for p in [*network, *quantiles])
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in [*network, *quantiles]}


@pytest.mark.parametrize(("loss", "metric", "scale"), [("mse", "mse", 1), ("msssim", "ms-ssim", 1000)])
def test_steps_equal_those_of_compressais_example_loop(loss, metric, scale, tmp_path, monkeypatch):
    """Three steps on the same patches and noise have the same losses, and so the same updates between them.

    The quantiles' own loss does not count: the example takes it after its step, ours before. No trained weight
    depends on the quantiles."""
    seen, losses = [], []
    training_step, log = AGVAEModule.training_step, AGVAEModule.log

    def recorded(self, batch, batch_idx):
        if not seen:
            seen.append({name: w.clone() for name, w in self.model.net.state_dict().items()})
        seen.append(self.pixels(batch.image))
        return training_step(self, batch, batch_idx)

    def logged(self, name, value, **options):
        if name == "train/loss":
            losses.append(value.item())
        log(self, name, value, **options)

    monkeypatch.setattr(AGVAEModule, "training_step", recorded)
    monkeypatch.setattr(AGVAEModule, "log", logged)
    side = "data.patch_size=192 data.val_crop=192" if loss == "msssim" else ""
    train(configure(tmp_path, f"loss={loss}", "model.quality=2", *side.split()))
    weights, *patches = seen

    net = MeanScaleHyperprior(8, 12).to(memory_format=torch.channels_last)  # the order of memory decides the noise
    net.load_state_dict(weights)
    criterion = RateDistortionLoss(LAMBDAS[loss][1] * scale, metric)
    quantiles = [p for name, p in net.named_parameters() if name.endswith("quantiles")]
    optimizer = torch.optim.Adam([p for n, p in net.named_parameters() if not n.endswith("quantiles")], lr=1e-3)
    aux_optimizer = torch.optim.Adam(quantiles, lr=1e-3)
    assert len(losses) == 3
    for number, x in enumerate(patches):
        torch.manual_seed(step_seed(0, 0, number))
        torch.rand(())  # our step draws levels first
        optimizer.zero_grad()
        aux_optimizer.zero_grad()
        expected = criterion(net(x), x)["loss"]
        expected.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        net.aux_loss().backward()
        aux_optimizer.step()
        assert losses[number] == pytest.approx(expected.item(), rel=1e-5)


def test_a_batch_of_several_levels_is_as_its_pictures_one_by_one():
    model = small("mbt2018-mean-vbr")
    x, quality = torch.rand(4, 3, 64, 64), torch.tensor([3.0, 0.0, 3.0, 2.5])
    together = model(x, quality)
    for row, q in enumerate(quality.tolist()):
        alone = model(x[row : row + 1], q)
        torch.testing.assert_close(together.x_hat[row], alone.x_hat[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.bits[row], alone.bits[0], rtol=1e-4, atol=0)


def test_scales_of_a_variable_rate_model_are_compressais_for_its_lambdas():
    model, theirs = small("mbt2018-mean-vbr"), MeanScaleHyperpriorVbr(8, 12)
    assert model.own_lambdas["mse"] == theirs.lmbda
    model.initialise_gains(theirs.lmbda)
    torch.testing.assert_close(model.net.Gain, theirs.Gain, atol=1e-3, rtol=0, check_stride=False)
    at = [model.scaled(q)["inputscale"].item() for q in (2, 2.5, 3, 7)]
    assert at[1] == pytest.approx((at[0] * at[2]) ** 0.5)
    assert [at[0], at[2], at[3]] == pytest.approx([theirs.Gain[s].item() for s in (2, 3, 7)], abs=1e-3)


def test_autocast_leaves_latents_and_likelihoods_in_float32():
    model = small("mbt2018-mean").train()
    x = torch.rand(1, 3, 64, 64)
    torch.manual_seed(1)
    exact = model(x, 0.0)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x, 0.0)
    assert out.y_likelihoods.dtype == out.z_likelihoods.dtype == out.x_hat.dtype == torch.float32
    assert out.bits.item() == pytest.approx(exact.bits.item(), rel=0.02)


@pytest.mark.parametrize("architecture", ["bmshj2018-factorized", "mbt2018-mean-vbr"])
def test_a_resumed_run_ends_where_the_whole_one_does(architecture, tmp_path):
    model = [f"model.architecture={architecture}", "ema.decay=0.9"]
    train(configure(tmp_path / "whole", *model, "trainer.max_steps=4"))
    train(configure(tmp_path / "parts", *model, "trainer.max_steps=2"))
    train(configure(tmp_path / "parts", *model, "trainer.max_steps=4", "ckpt_path=last"))
    whole, parts = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "parts")
    )
    for key in ("state_dict", "ema"):
        assert whole[key].keys() == parts[key].keys()
        assert all(torch.equal(whole[key][name], parts[key][name]) for name in whole[key])


def test_a_run_says_how_to_go_on_and_its_checkpoint_is_no_agvae_model(tmp_path, capsys):
    train(configure(tmp_path, "trainer.max_steps=1"))
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    said = capsys.readouterr().out
    assert "mbt2018-mean of CompressAI" in said
    assert f"codecs=[compressai:{checkpoint}]" in said
    assert json.loads((tmp_path / "run.json").read_text())["steps"] == 1
    with pytest.raises(model_file.ModelError, match=r"holds mbt2018-mean of CompressAI.*codecs="):
        model_file.from_checkpoint(checkpoint)
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "report.html")]) == 0


def test_a_variable_rate_run_starts_from_its_fixed_rate_twin_alone(tmp_path):
    train(configure(tmp_path / "fixed", "trainer.max_steps=1"))
    start = f"init_from={tmp_path / 'fixed' / 'checkpoints' / 'last.ckpt'}"
    vbr = "model.architecture=mbt2018-mean-vbr"
    train(configure(tmp_path / "vbr", vbr, start, "trainer.max_steps=1", "optimizer.lr=0"))
    fixed, started = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("fixed", "vbr")
    )
    assert all(torch.equal(started[name], w) for name, w in fixed.items() if "quantiles" not in name)
    for other, message in (("model.architecture=mbt2018-vbr", "checkpoint of mbt2018, not"), ("model.N=6", "model.N")):
        with pytest.raises(ConfigError, match=message):
            train(configure(tmp_path / "other", vbr, start, other))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "vgg"}, "must be one of .*mbt2018-mean"),
        ({"quality": 9}, "quality of mbt2018-mean must be 1 to 8, not 9"),
        ({"architecture": "cheng2020-attn", "quality": 7, "M": None}, "1 to 6, not 7"),
        ({"architecture": "cheng2020-attn"}, "model.M must be null"),
        ({"N": 0}, "positive integers"),
        ({"transforms": {"N": 8}}, "has no key model.transforms"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(change, message):
    config = {"architecture": "mbt2018-mean", "quality": 3, "N": 8, "M": 12}
    with pytest.raises(ValueError, match=message):
        build_model(config | change)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "compressai.zoo", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[compressai\]'"):
        build_model({"architecture": "mbt2018-mean", "quality": 3})
    codecs, missing = available_codecs(["jpeg", "compressai:mbt2018-mean:3"])
    assert [codec.name for codec in codecs] == ["jpeg"]
    assert "[compressai]" in missing["compressai:mbt2018-mean:3"]


# --- evaluation


@pytest.mark.parametrize("name", FIXED + VARIABLE)
def test_a_file_decodes_to_the_models_picture_and_each_byte_counts(name, noise):
    model = small(name)
    qualities = [0.0, 2.5] if model.variable else [3]
    codec = PeerCodec(f"compressai:{name}", dict.fromkeys(qualities, model))
    for quality in qualities:
        data = codec.encode(noise, quality)
        decoded = codec.decode(data)
        assert decoded.size == noise.size
        assert codec.decode(data).tobytes() == decoded.tobytes()
        model.net.update(force=True)
        x = torch.zeros(1, 3, 128, 128)
        top, left = (128 - 70) // 2, (128 - 101) // 2
        x[..., top : top + 70, left : left + 101] = torch.from_numpy(np.array(noise)).permute(2, 0, 1) / 255
        if not model.has_hyper_latent:  # its stride is 16
            top, left, x = 5, 5, x[..., 24:104, 8:120]
        with torch.no_grad():
            strings = model.net.compress(x, **model.scaled(quality))
            theirs = model.net.decompress(**strings, **model.scaled(quality))["x_hat"][0]
        assert len(data) == 6 + 4 * model.has_hyper_latent + sum(len(string) for (string,) in strings["strings"])
        expected = (theirs[:, top : top + 70, left : left + 101] * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.abs(expected.astype(int) - np.array(decoded)).max() <= 1


def test_a_variable_rate_model_with_a_variable_z_round_trips(noise):
    """CompressAI's published mbt2018-mean-vbr is such a model: each quality has its own tables of z."""
    model = small("mbt2018-mean-vbr")
    torch.manual_seed(0)
    model.net = MeanScaleHyperpriorVbr(8, 12, vr_entbttlnck=True).eval()
    codec = PeerCodec("compressai:mbt2018-mean-vbr", dict.fromkeys([1.0, 6.5], model))
    files = [codec.encode(noise, quality) for quality in codec.qualities]
    for data in files:
        assert codec.decode(data).size == noise.size


def test_weights_that_cannot_be_fetched_are_said_and_the_published_curve_stands_in(monkeypatch, caplog, tmp_path):
    def offline(*_, **__):
        raise OSError("no network")

    for module in ("image", "image_vbr"):
        monkeypatch.setattr(f"compressai.zoo.{module}.load_state_dict_from_url", offline)
    for name in ("compressai:mbt2018-mean:3", "compressai:mbt2018-mean", "compressai:mbt2018-mean-vbr:2.5"):
        with pytest.raises(MissingCodecError, match=r"cannot fetch its weights \(no network\).*checkpoints"):
            peer_codec(name)
    assert stand_in("compressai:mbt2018-mean:3").name == "mbt2018-mean-mse"
    assert stand_in("compressai:mbt2018-mean-vbr").name == "mbt2018-mean-vbr-mse"
    assert stand_in("compressai:bmshj2018-factorized") is None
    for wrong in ("compressai:vgg", "compressai:mbt2018:9", "compressai:mbt2018:2.5", "compressai:mbt2018:best"):
        with pytest.raises(ConfigError):
            peer_codec(wrong)
    with pytest.raises(DataError, match="no such file"):
        peer_codec("compressai:no.ckpt")


def test_published_weights_are_one_curve_of_all_qualities(monkeypatch, noise):
    def trained(name, given):
        model = PeerModel(name, given, N=8, M=12)
        return model.eval()

    monkeypatch.setattr(PeerModel, "pretrained", trained)
    codec = peer_codec("compressai:mbt2018-mean")
    assert list(codec.qualities) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert codec.decode(codec.encode(noise, 8)).size == noise.size
    assert list(peer_codec("compressai:mbt2018-mean:3").qualities) == [3]
    assert len(peer_codec("compressai:mbt2018-vbr").qualities) == 15


def test_a_checkpoint_is_evaluated_beside_a_model_of_ours(tmp_path):
    train(configure(tmp_path / "run", "model.architecture=mbt2018-mean-vbr", "trainer.max_steps=1"))
    name = f"compressai:{tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}"
    photo = tmp_path / "photos" / "one.png"
    photo.parent.mkdir()
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(photo)
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        overrides = ["checkpoint=agvae-small-mse", f"codecs=['{name}']", "data=folder", f"data.root={photo.parent}"]
        cfg = compose("evaluate", [*overrides, "qualities=[0]", f"run_dir={tmp_path / 'results'}"])
    evaluate(cfg)
    (curve,) = (path for path in (tmp_path / "results" / "results" / "photos").glob("compressai-*.json"))
    assert len(json.loads(curve.read_text())["results"]["bpp"]) == 15


# --- import


def lively(net: torch.nn.Module) -> torch.nn.Module:
    """The network, changed so that some symbols are not 0."""
    with torch.no_grad():
        net.g_a[-1].weight *= 20
    return net.eval()


def test_an_imported_mean_scale_hyperprior_gives_its_picture_and_rates():
    """It becomes an AG-VAE with gain none, symmetric entropy, context none and transforms minnen2018."""
    torch.manual_seed(0)
    theirs = lively(MeanScaleHyperprior(16, 24))
    ours = from_compressai(theirs.state_dict()).eval()
    x = torch.rand(2, 3, 128, 192)
    with torch.no_grad():
        expected, out = theirs(x), ours(x, 0)
    assert expected["likelihoods"]["y"].std() > 0.01
    torch.testing.assert_close(out.x_hat, expected["x_hat"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.y_likelihoods, expected["likelihoods"]["y"], atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(out.z_likelihoods, expected["likelihoods"]["z"], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("widths", [(12, 12), (8, 20)])
def test_an_imported_mbt2018_decodes_to_its_picture(widths):
    """It gets the wider context multiscale. The reference is CompressAI's codec, which rounds around the means too."""
    torch.manual_seed(0)
    theirs = lively(JointAutoregressiveHierarchicalPriors(*widths))
    theirs.update(force=True)
    ours = from_compressai(theirs.state_dict()).eval()
    x = torch.rand(1, 3, 128, 192)
    with torch.no_grad():
        strings = theirs.compress(x)
        expected = theirs.decompress(**strings)["x_hat"]
        coded = ours.code(ours.g_a(x), 0)
        x_hat = ours.synthesize(coded.y_hat, 0)
        psi = theirs.h_s(theirs.entropy_bottleneck.decompress(strings["strings"][1], strings["shape"]))
        raw = theirs.entropy_parameters(torch.cat((psi, theirs.context_prediction(coded.y_hat)), dim=1))
        scales, means = raw.chunk(2, 1)
        _, likelihoods = theirs.gaussian_conditional(coded.y_hat, scales, means=means)
    assert coded.symbols.std() > 0.5
    torch.testing.assert_close(x_hat.clamp(0, 1), expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(coded.y_likelihoods, likelihoods, atol=1e-5, rtol=1e-3)
    (ours.train()(x, 0).bits / 1000).sum().backward()
    M = widths[1]
    context = ours.context
    of_layers = ((context.from_context, slice(M)), (context.head[1], slice(10 * M // 3, None)))
    for layer, new in (*of_layers, (context.head[3], slice(8 * M // 3, None))):  # units that CompressAI's model lacks
        assert layer.weight.grad[:, new].any()


def test_old_names_of_the_prior_are_read():
    theirs = MeanScaleHyperprior(8, 12).state_dict()
    old = {}
    for name, weight in theirs.items():
        for new, was in (("matrices.", "_matrix"), ("biases.", "_bias"), ("factors.", "_factor")):
            name = name.replace(f"entropy_bottleneck.{new}", f"entropy_bottleneck.{was}")
        old[f"module.{name}"] = weight
    ours, expected = from_compressai(old).state_dict(), from_compressai(theirs).state_dict()
    assert all(torch.equal(ours[name], weight) for name, weight in expected.items())


def test_the_command_writes_a_checkpoint_to_start_from_and_to_export(tmp_path, capsys):
    theirs, start = tmp_path / "theirs.pth.tar", tmp_path / "start.ckpt"
    torch.save({"state_dict": MeanScaleHyperprior(8, 12).state_dict(), "epoch": 3}, theirs)
    assert main(["import-compressai", str(theirs), str(start)]) == 0
    command = capsys.readouterr().out.splitlines()[-1].split()
    assert command[:2] == ["python", "train.py"]
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        settings = [item for item in SMALL_RUN if not item.startswith("model")]
        train(compose("train", [*settings, *command[2:], f"run_dir={tmp_path / 'run'}", "trainer.max_steps=1"]))
    assert main(["export", str(start), str(tmp_path / "model.safetensors")]) == 0
    codec = Codec.load(str(tmp_path / "model.safetensors"))
    image = Image.fromarray(np.full((64, 64, 3), 90, np.uint8))
    assert codec.decompress(codec.compress(image, quality=0)).size == image.size


def test_a_checkpoint_of_our_trainer_can_be_imported_and_others_are_refused(tmp_path, capsys):
    train(configure(tmp_path / "run", "trainer.max_steps=1"))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert main(["import-compressai", str(last), str(tmp_path / "start.ckpt")]) == 0
    assert main(["import-compressai", str(last), str(tmp_path / "start.pt")]) == 2
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean-vbr", "cheng2020-anchor"):
        torch.save(small(name).net.state_dict(), tmp_path / f"{name}.pth")
    for path in [*tmp_path.glob("*.pth"), tmp_path / "missing.pth"]:
        capsys.readouterr()
        assert main(["import-compressai", str(path), str(tmp_path / "other.ckpt")]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert str(path) in error
    assert not (tmp_path / "other.ckpt").exists()


def test_widths_are_those_of_compressais_zoo():
    from compressai import zoo

    for name, quality in itertools.product(("mbt2018-mean", "mbt2018"), (1, 5, 8)):
        net = zoo.image_models[name](quality)
        assert widths_by_quality(name)[quality] == (net.N, net.M)
