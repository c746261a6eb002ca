"""`agvae export`, `agvae shard` and `agvae report`: commands for people who train."""

import argparse

from agvae.cli.jobs import Job, check_folders, report
from agvae.cli.streams import note, one_line, say, write
from agvae.errors import ConfigError


def export(options: argparse.Namespace) -> None:
    """Turn a training checkpoint into a model file."""
    from agvae.codec import model_file

    if options.output.suffix != ".safetensors":
        raise ConfigError(f"{options.output}: the output must have the suffix .safetensors")
    model = model_file.from_checkpoint(options.checkpoint, options.half)
    model.save(options.output)
    size = options.output.stat().st_size
    say(f"{options.output}: {size / 1e6:.1f} MB, including {model.tables.nbytes / 1e6:.2f} MB of coding tables")


def shard(options: argparse.Namespace) -> None:
    """Turn a folder of pictures into tar files with an index."""
    from agvae.data.shards import summary, write_shards

    index, headers = write_shards(options.folder, options.output, options.size * 10**6)
    for reason in headers.unreadable:
        note(f"left out: {one_line(reason)}")
    say(f"{options.output}: {summary(index)}; to train on it, use data=shards data.root={options.output}")


def report_runs(options: argparse.Namespace) -> None:
    """Make one HTML page of training runs and evaluations."""
    job = Job("", options.output)
    check_folders(job)
    from agvae.reporting.collect import read_runs
    from agvae.reporting.compare import compare
    from agvae.reporting.html import render

    comparison = compare(read_runs(options.paths))
    page = render(comparison, options.title or f"AG-VAE runs in {', '.join(options.paths)}")
    write(job.output, page.encode())
    words = f"{len(comparison.training)} training runs, {len(comparison.panels)} sets of images"
    report(job, words, comparison.notes)
