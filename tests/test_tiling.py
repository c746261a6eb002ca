"""Tiles cover the map once, and networks give the same output in tiles as in one run."""

import pytest
import torch
from conftest import TINY, at_random, lively_model
from torch import nn

from agvae.codec import Codec, model_file, tiling
from agvae.codec.features import bands
from agvae.codec.tiling import run_in_tiles, tiles
from agvae.models import AGVAE
from agvae.models.exact import exact
from agvae.models.measure import UnboundedError, reach_of
from agvae.models.transforms import TRANSFORMS


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (64, 65), (129, 40)])
@pytest.mark.parametrize("side", [1, 4, 32])
def test_tiles_cover_the_map_once_and_their_halos_stay_inside(size, side):
    visits = torch.zeros(size, dtype=torch.int)
    for tile in tiles(*size, side, halo=3):
        visits[tile.top : tile.bottom, tile.left : tile.right] += 1
        rows, columns = tile.read
        assert (rows.start, columns.start) == (max(0, tile.top - 3), max(0, tile.left - 3))
        assert (rows.stop, columns.stop) == (min(size[0], tile.bottom + 3), min(size[1], tile.right + 3))
        # No run takes more memory than a whole tile with its halo.
        assert (rows.stop - rows.start) * (columns.stop - columns.start) <= (side + 6) ** 2
    assert visits.eq(1).all()


BLOCKS = {"depthwise": {"blocks": 2}}


def build(name, blocks=3):
    extra = {"blocks": blocks} if name == "depthwise" else {}
    torch.manual_seed(0)
    transforms = TRANSFORMS[name](N=4, M=4, hyper_channels=4, **extra)
    at_random(transforms.g_a)
    at_random(transforms.g_s)
    return transforms


def measured(transforms):
    return reach_of(transforms.g_a, transforms.g_s, transforms.h_s, transforms.M, transforms.N)


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
@pytest.mark.parametrize(
    ("part", "channels", "in_scale", "out_scale"), [("g_a", 3, 16, 1), ("g_s", 4, 1, 16), ("h_s", 4, 1, 4)]
)
def test_no_network_reaches_past_its_halo(name, part, channels, in_scale, out_scale):
    """The gradient of one cell of the output is zero outside the cell and its halo."""
    transforms = build(name)
    reach, centre, side = getattr(measured(transforms), part), 14, 29
    x = torch.randn(1, channels, side * in_scale, side * in_scale, requires_grad=True)
    cell = getattr(transforms, part)(x).unflatten(2, (side, out_scale)).unflatten(4, (side, out_scale))
    cell = cell[:, :, centre, :, centre]
    (cell * torch.randn_like(cell)).sum().backward()
    seen = x.grad.unflatten(2, (side, in_scale)).unflatten(4, (side, in_scale)).abs().amax((0, 1, 3, 5)) > 0
    inside = torch.zeros_like(seen)
    inside[centre - reach : centre + reach + 1, centre - reach : centre + reach + 1] = True
    assert not (seen & ~inside).any()
    # The halo is no wider than necessary, because it costs time.
    assert (seen & inside)[centre].sum() > 2 * reach - 4


@pytest.mark.parametrize(("name", "expected"), [("minnen2018", (2, 2, 2)), ("residual", (8, 11, 4))])
def test_reach_is_measured_and_the_same_at_any_width(name, expected):
    config = TINY | {"transforms": {"name": name, "N": 12, "M": 16}}
    model = AGVAE.from_config(config)
    assert model.reach == expected
    assert measured(model) == expected


def test_a_network_that_sees_everything_is_refused():
    class Mean(nn.Module):
        def forward(self, x):
            return x - x.mean((2, 3), keepdim=True)

    transforms = build("minnen2018")
    with pytest.raises(UnboundedError, match=r"g_s must read a bounded neighbourhood"):
        measured(transforms._replace(g_s=nn.Sequential(Mean(), *transforms.g_s)))


@pytest.mark.parametrize(("name", "expected"), [("minnen2018", 12), ("residual", 32), ("depthwise", 35)])
def test_memory_is_measured_in_bytes_for_each_pixel(name, expected):
    model = AGVAE.from_config(TINY | {"transforms": {"name": name, "N": 8, "M": 12} | BLOCKS.get(name, {})})
    assert expected / 2 < model.bytes_per_pixel < 4 * expected


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
@pytest.mark.parametrize(
    ("part", "channels", "in_scale", "out_scale"), [("g_a", 3, 16, 1), ("g_s", 4, 1, 16), ("h_s", 4, 1, 4)]
)
def test_tiles_join_to_the_untiled_run(name, part, channels, in_scale, out_scale):
    transforms = build(name, blocks=1)
    network, halo = getattr(transforms, part), getattr(measured(transforms), part)
    x = torch.randn(1, channels, 20 * in_scale, 25 * in_scale)
    with torch.inference_mode():
        whole = network(x)
        joined = torch.full_like(whole, torch.nan)

        def read(rows, columns):
            return x[
                :,
                :,
                rows.start * in_scale : rows.stop * in_scale,
                columns.start * in_scale : columns.stop * in_scale,
            ]

        def write(tile, part):
            top, left = tile.top * out_scale, tile.left * out_scale
            joined[:, :, top : top + part.shape[2], left : left + part.shape[3]] = part

        shares = []
        run_in_tiles(network, read, write, tiles(20, 25, 8, halo), out_scale, shares.append)
    torch.testing.assert_close(joined, whole, atol=1e-5, rtol=1e-4)
    assert shares == sorted(shares)
    assert shares[-1] == 1


@pytest.mark.parametrize(("context", "count"), [("none", 4), ("checkerboard", 1)])
def test_hyper_features_in_tiles_are_equal_to_the_last_bit(tiny_config, context, count, monkeypatch):
    """Without context, they are computed in bands of rows, otherwise in one piece."""
    tiny_config["context"]["name"] = context
    model = exact(lively_model(tiny_config))
    z = torch.randint(-5, 6, (1, model.N, 13, 9)).float()
    monkeypatch.setattr(tiling, "CPU_WORKSPACE", 1)  # makes tiles of 4 × 4
    with torch.inference_mode():
        whole = model.hyper_features(z + model.prior.medians, 1.5)
        parts = list(bands(model, z, 1.5))
        read = []
        for part in parts:
            positions = torch.arange(part.height * part.width).split(50)
            rows = torch.cat([part.at(some) for some in positions], 1)
            read.append(rows.unflatten(1, (part.height, part.width)))
    assert len(parts) == count
    assert [part.rows.start for part in parts] == [0, *(part.rows.stop for part in parts[:-1])]
    assert torch.equal(whole, torch.cat(read, 1).permute(0, 3, 1, 2))


def test_hyper_features_are_computed_where_they_are_read_and_once(tiny_config, monkeypatch):
    tiny_config["context"]["name"] = "checkerboard"
    model = exact(lively_model(tiny_config))
    monkeypatch.setattr(tiling, "CPU_WORKSPACE", 1)  # makes tiles of 4 × 4
    seen = []
    h_s = model.h_s.forward
    monkeypatch.setattr(model.h_s, "forward", lambda z: seen.append(z.shape[2:]) or h_s(z))
    with torch.inference_mode():
        (band,) = bands(model, torch.zeros(1, model.N, 30, 30), 1.5)
        width = band.width
        for positions, tiles_so_far in (([0, 3 * width + 3], 1), ([0, width - 1], 2), ([0, 1, width - 1], 2)):
            band.at(torch.tensor(positions))
            assert len(seen) == tiles_so_far


def test_a_picture_coded_in_tiles_is_that_coded_whole(tiny_model, photo, monkeypatch):
    ours = Codec(model_file.from_model(tiny_model))
    image = photo.crop((0, 0, 400, 300))
    whole = ours.compress(image, quality=1.5)
    picture = ours.decompress(whole)
    monkeypatch.setattr(tiling, "CPU_WORKSPACE", 1)
    tiled = ours.compress(image, quality=1.5)
    # A float sum in another order may change a symbol near a threshold.
    assert abs(len(tiled) - len(whole)) <= 0.001 * len(whole)
    difference = torch.tensor(list(ours.decompress(whole).tobytes())) - torch.tensor(list(picture.tobytes()))
    assert difference.abs().max() <= 1
