"""One codec works in several threads, in processes that unpickle it, and in the child of a fork."""

import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from conftest import TINY, lively_model

from agvae.codec import Codec, model_file

THREADS = 8


@pytest.fixture(scope="module")
def codec() -> Codec:
    parts = {"transforms": {"name": "depthwise", "N": 8, "M": 12, "blocks": 1}, "context": {"name": "quadtree"}}
    return Codec(model_file.from_model(lively_model(TINY | parts)), "shared")


@pytest.fixture(scope="module")
def crops(photo) -> list:
    return [photo.crop((x, x, x + 100 + 10 * i, x + 80)) for i, x in enumerate(range(0, 200, 25))]


def test_threads_that_share_a_codec_get_the_bytes_and_pictures_that_each_gets_alone(codec, crops):
    jobs = [(crop, {"quality": quality}) for crop in crops for quality in (0, 1.3)]
    jobs += [(crop, {"bytes": len(codec.compress(crop, quality=1))}) for crop in crops]

    def code(job):
        crop, target = job
        data = codec.compress(crop, **target)
        return data, codec.decompress(data).tobytes()

    alone = [code(job) for job in jobs]
    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(code, jobs)) == alone


def test_threads_that_share_a_latent_get_the_same_bytes(crops):
    fixed_rate = TINY | {"gain": {"name": "none", "levels": 1}}  # without gains, ȳ is the latent itself
    codec = Codec(model_file.from_model(lively_model(fixed_rate)))
    latent = codec.analyze(crops[0])
    alone = codec.compress(crops[0], quality=0)
    with ThreadPoolExecutor(THREADS) as pool:
        files = pool.map(lambda _: codec.compress(latent, quality=0), range(2 * THREADS))
        assert set(files) == {alone}


@pytest.mark.slow
def test_a_pickled_codec_codes_the_same_bytes_here_and_in_a_worker_process(codec, crops):
    data = codec.compress(crops[0], quality=1)
    copy = pickle.loads(pickle.dumps(codec))
    assert (copy.name, copy.fingerprint, copy.device) == (codec.name, codec.fingerprint, codec.device)
    assert copy.compress(crops[0], quality=1) == data
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as pool:
        assert pool.submit(codec.compress, np.array(crops[0]), quality=1).result() == data


FORKED = """
import os, sys
import torch
from agvae import Codec
from agvae.data.bundled_photos import sample_photos

torch.set_num_threads(2)
(photo,) = sample_photos(("astronaut.png",))
parents = Codec.load(sys.argv[1])
data = parents.compress(photo, quality=1)  # starts OpenMP's threads
child = os.fork()
if child == 0:
    for codec in (parents, Codec.load(sys.argv[1])):
        assert codec.compress(photo, quality=1) == data
        codec.decompress(data)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_the_child_of_a_fork_codes_with_its_parents_codec_and_with_its_own(codec, tmp_path):
    codec._file.save(tmp_path / "model.safetensors")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(tmp_path / "model.safetensors")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "7", done.stderr
