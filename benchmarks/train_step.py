"""Measures steps of training per second: ours, as train.py trains, beside a plain loop over CompressAI's model.

    python benchmarks/train_step.py [--device cpu|cuda] [--transforms minnen2018|residual|depthwise] [--batch 16]
                                    [--patch 256] [--rounds 8] [--also compile=false …] [--without-plain] [--profile]

ours        agvae.engine.train with trainer=DEVICE and the defaults of train.py: Lightning's loop, bundled photos, no
            context, levels and gains, logging, and everything else that a run does. On a GPU it has data.cache=device.
            With depthwise it trains the model of experiment=flagship, with its context
plain       a loop like CompressAI's example trainer: float32, contiguous tensors, an optimiser for the network and one
            for the quantiles, clipping to norm 1, a separate step for the auxiliary loss. With minnen2018 it trains
            CompressAI's MeanScaleHyperprior of the same widths, with residual and depthwise our own model, fixed-rate
            and symmetric. Its pictures are ready as tensors, so they cost no time. The goal on a GPU is 3 times its
            speed
--also      further rows: ours with other settings
--without-plain  leaves out the plain loop, for machines without CompressAI

Each loop runs in a process of its own. The loops take turns, a round of steps each, so that other work on the machine
affects all alike. Steps per second are medians over rounds. On a CPU with one thread (OMP_NUM_THREADS=1), they count
processor time, which other work hardly changes. Memory is the peak of the process. On a CPU it is resident memory,
without the peak before the first step. On a GPU it is allocated memory.

On a GPU, a round waits for the device at its end. The table then also has floating-point operations per second
(convolutions and matrix products, forwards and backwards), relative to the rate of bfloat16 matrix products of 8192² on
the same card. --profile prints the operations that take most of the time in ours.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from unittest import mock

import torch
from common import clock, conditions, configuration, peak_memory, photo, table

LAMBDA = 0.01


class Turns:
    """One loop's part in taking turns: it reports the seconds and memory of a round, and waits for its next turn."""

    def __init__(self, connection, device, steps):
        self.connection, self.device, self.steps = connection, device, steps
        self.clock = clock(device)
        self.done = 0
        self.before = peak_memory()

    def start(self):
        """Wait for the next turn. Raises SystemExit when there is none."""
        self.done = 0
        if self.connection.recv() is None:
            raise SystemExit
        self.began = self.clock()

    def step(self):
        """Call after each step."""
        self.done += 1
        if self.done < self.steps:
            return
        if self.device == "cuda":
            torch.cuda.synchronize()
        seconds = self.clock() - self.began
        memory = torch.cuda.max_memory_allocated() if self.device == "cuda" else peak_memory() - self.before
        self.connection.send((seconds, memory))
        self.start()


def model_settings(transforms):
    """The overrides of a model: the flagship's for depthwise, otherwise the defaults of its transforms."""
    if transforms != "depthwise":
        return [f"model/transforms={transforms}"]
    widths = [
        "model.transforms.N=192",
        "model.transforms.M=320",
        "model.transforms.blocks=6",
        "model.context.width=192",
    ]
    return ["model/transforms=depthwise", "model/context=quadtree", "model.entropy.tail=0.1", *widths]


def ours(connection, arguments, overrides):
    """Train as train.py does, taking turns."""
    from lightning.pytorch.callbacks import Callback
    from torch.profiler import profile

    from agvae import engine

    turns = Turns(connection, arguments.device, arguments.steps)

    class TakeTurns(Callback):
        def on_train_start(self, trainer, module):
            self.profiler = None
            turns.before = peak_memory()
            turns.start()

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if arguments.profile and trainer.global_step == 2 * arguments.steps:
                self.profiler = profile()
                self.profiler.__enter__()
            elif self.profiler is not None:
                self.profiler.__exit__(None, None, None)
                key = f"self_{arguments.device}_time_total"
                print(self.profiler.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=60))
                self.profiler = None
            turns.step()

    # The engine imports its callbacks by the names in the configuration, so this one needs a module.
    sys.modules["train_step_turns"] = type(sys)("train_step_turns")
    sys.modules["train_step_turns"].TakeTurns = TakeTurns
    settings = [
        f"trainer={'gpu' if arguments.device == 'cuda' else 'cpu'}",
        *model_settings(arguments.transforms),
        f"data.batch_size={arguments.batch}",
        f"data.patch_size={arguments.patch}",
        "logger=csv",
        "trainer.num_sanity_val_steps=0",
        "trainer.max_steps=1000000",
        "trainer.val_check_interval=1000000",
        "callbacks.last.every_n_steps=1000000",
        "callbacks.progress_bar=null",
        "+trainer.enable_progress_bar=false",
        "+callbacks.turns._target_=train_step_turns.TakeTurns",
        *(["data.cache=device"] if arguments.device == "cuda" else []),
        *overrides,
    ]
    with tempfile.TemporaryDirectory() as folder:
        engine.train(configuration([*settings, f"run_dir={folder}"]))


def plain(connection, arguments):
    """The loop of CompressAI's example trainer, taking turns."""
    from compressai.losses import RateDistortionLoss
    from compressai.models import MeanScaleHyperprior

    turns = Turns(connection, arguments.device, arguments.steps)
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    if arguments.transforms == "minnen2018":
        model, criterion = MeanScaleHyperprior(128, 192).to(device).train(), RateDistortionLoss(lmbda=LAMBDA)
    else:
        model, criterion = FixedRate(arguments.transforms).to(device).train(), rate_distortion
    network = [p for name, p in model.named_parameters() if not name.endswith("quantiles")]
    quantiles = [p for name, p in model.named_parameters() if name.endswith("quantiles")]
    optimizer, aux_optimizer = torch.optim.Adam(network, lr=1e-4), torch.optim.Adam(quantiles, lr=1e-3)
    x = patches(arguments).to(device)
    turns.before = peak_memory()
    turns.start()
    while True:
        optimizer.zero_grad()
        aux_optimizer.zero_grad()
        out = model(x)
        criterion(out, x)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.aux_loss().backward()
        aux_optimizer.step()
        turns.step()


class FixedRate(torch.nn.Module):
    """Our networks behind CompressAI's interface, without gains."""

    def __init__(self, transforms):
        from omegaconf import OmegaConf

        from agvae.models import AGVAE

        super().__init__()
        chosen = [*model_settings(transforms), "model/gain=none", "model/entropy=symmetric"]
        config = configuration([*chosen, "model/quantizer=noise", "run_dir=."])
        self.model = AGVAE.from_config(OmegaConf.to_container(config.model))
        self.aux_loss = self.model.aux_loss

    def forward(self, x):
        return self.model(x, 0.0)


def rate_distortion(out, x):
    """CompressAI's loss for our model's output."""
    bpp = out.bits.sum() / x[:, 0].numel()
    return {"loss": bpp + LAMBDA * 255**2 * torch.nn.functional.mse_loss(out.x_hat, x)}


def patches(arguments):
    """Float pictures (B, 3, P, P) in [0, 1], cut from a photograph."""
    side, (batch, patch) = 2048, (arguments.batch, arguments.patch)
    image = torch.from_numpy(photo(side, side)).permute(2, 0, 1) / 255
    corners = torch.randint(side - patch, (batch, 2), generator=torch.Generator().manual_seed(0)).tolist()
    return torch.stack([image[:, i : i + patch, j : j + patch] for i, j in corners]).contiguous()


def step_flops(arguments):
    """Floating-point operations of one of our training steps: its convolutions and matrix products."""
    from torch.utils.flop_counter import FlopCounterMode

    model = FixedRate(arguments.transforms).train()
    x = torch.rand(1, 3, arguments.patch, arguments.patch)
    # Counted as a GPU computes. Only the CPU uses Winograd's algorithm, which multiplies less.
    with (
        mock.patch("agvae.models.kernels.winograd.pays", return_value=False),
        FlopCounterMode(display=False) as counter,
    ):
        rate_distortion(model(x), x)["loss"].backward()
    return counter.get_total_flops() * arguments.batch


def matmul_rate(side=8192, repeats=20):
    """Operations per second of bfloat16 matrix products on the GPU."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for timed in (False, True):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            a @ b
        torch.cuda.synchronize()
        if timed:
            return 2 * side**3 * repeats / (time.perf_counter() - start)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--transforms", choices=("minnen2018", "residual", "depthwise"), default="minnen2018")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--patch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, help="steps of a round (default: 1 on a CPU, 50 on a GPU)")
    parser.add_argument(
        "--also", nargs="*", default=[], help="settings for further rows; join the settings of one row with commas"
    )
    parser.add_argument("--without-plain", action="store_true", help="leave out the plain loop")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    arguments.steps = arguments.steps or (50 if arguments.device == "cuda" else 1)

    context = multiprocessing.get_context("spawn")
    jobs = {} if arguments.without_plain else {"plain": (plain, ())}
    jobs["ours"] = ours, ([],)
    jobs |= {f"ours, {settings}": (ours, (settings.split(","),)) for settings in arguments.also}
    processes, connections = [], {}
    for name, (function, rest) in jobs.items():
        connections[name], theirs = context.Pipe()
        processes.append(context.Process(target=function, args=(theirs, arguments, *rest), daemon=True))
        processes[-1].start()
        theirs.close()
    rounds = {name: [] for name in jobs}
    for _ in range(arguments.rounds + 1):
        for name, connection in connections.items():
            connection.send(True)
            rounds[name].append(connection.recv())
    for connection in connections.values():
        connection.send(None)
    for process in processes:
        process.join()

    rates = {name: arguments.steps / statistics.median(s for s, _ in taken[1:]) for name, taken in rounds.items()}
    on_gpu = arguments.device == "cuda"
    flops, peak = (step_flops(arguments), matmul_rate()) if on_gpu else (None, None)
    print(
        f"\n{arguments.transforms}, batch {arguments.batch} of {arguments.patch}², {arguments.device}, {conditions()}\n"
    )
    rows = []
    first = next(iter(jobs))
    for name, rate in rates.items():
        ratios = sorted(p / o for (p, _), (o, _) in zip(rounds[first][1:], rounds[name][1:], strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        memory = max(m for _, m in rounds[name]) / 2**30
        row = [name, f"{1000 / rate:.4g}", f"{rate:.3g}", f"{rate * arguments.batch:.3g}", spread, f"{memory:.2f}"]
        rows.append(row + ([f"{rate * flops / 1e12:.3g}", f"{rate * flops / peak:.1%}"] if on_gpu else []))
    columns = ["loop", "ms a step", "steps/s", "images/s", f"speed, {first} = 1 (range over rounds)", "memory, GiB"]
    table([*columns, *(["TFLOP/s", f"of {peak / 1e12:.0f} TFLOP/s"] if on_gpu else [])], rows)


if __name__ == "__main__":
    main()
