"""Randomness without state: a training sample is a pure function of (seed, its number in one endless stream).

The stream runs through the images in passes, and each pass is a permutation of all of them. Of W processes, process r
takes samples r, r + W, r + 2W, …, so N steps of W × B samples see the same samples for any split into W and B. An epoch
is only a number of steps. The next epoch continues where the last one stopped, so nothing is lost, doubled or padded at
its end. To resume, it is enough to know how many batches were done.
"""

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

_PASS, _CROP, _SUBSTITUTE, _DRAWN = range(4)


class SampleStream:
    """The content of sample `number`, for a data set of `count` images."""

    def __init__(self, count: int, seed: int):
        self.count = count
        self.seed = seed
        self._pass = -1
        self._order = np.empty(0, dtype=np.int64)

    def image(self, number: int) -> int:
        """Index of the image from which the sample is taken."""
        which, position = divmod(number, self.count)
        if which != self._pass:
            self._pass, self._order = which, self.order(which)
        return int(self._order[position])

    def order(self, which: int) -> np.ndarray:
        """(count,): every image once, as pass `which` shows them."""
        return self._random(_PASS, which).permutation(self.count)

    def substitutes(self, number: int) -> Iterator[int]:
        """Every index once, in the order in which they replace the sample's own image if it cannot be read."""
        return iter(self._random(_SUBSTITUTE, number).permutation(self.count).tolist())

    def crop(self, number: int, height: int, width: int, patch_size: int) -> tuple[int, int, bool]:
        """(top, left, mirrored), uniform over all positions in an image of height × width."""
        random = self._random(_CROP, number)
        top = random.integers(height - patch_size + 1)
        left = random.integers(width - patch_size + 1)
        return int(top), int(left), bool(random.integers(2))

    def drawing(self, number: int, share: float) -> np.random.Generator | None:
        """The generator that draws the sample, or None if it is a photograph. `share` of all samples are drawn."""
        if not share:
            return None
        random = self._random(_DRAWN, number)
        return random if random.random() < share else None

    def _random(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose, number])


class ShardStream(SampleStream):
    """The stream over images in shards. A pass takes the shards in random order, `together` at a time (None: all), and
    mixes their images, so that images that are read together lie close together.

    `shards` (count,) is the shard of each image, ascending."""

    def __init__(self, shards: np.ndarray, together: int | None, seed: int):
        super().__init__(len(shards), seed)
        self._shards = np.split(np.arange(self.count), np.flatnonzero(np.diff(shards)) + 1)
        self._together = together or len(self._shards)

    def order(self, which: int) -> np.ndarray:
        random = self._random(_PASS, which)
        shards = random.permutation(len(self._shards))
        groups = (shards[first : first + self._together] for first in range(0, len(shards), self._together))
        mixed = (np.concatenate([self._shards[shard] for shard in group]) for group in groups)
        return np.concatenate([random.permutation(images) for images in mixed])


class StreamSampler(DistributedSampler):
    """The sample numbers of one process, `batches` × `batch_size` each time it is iterated.

    At that moment, `position` is asked how many batches each process has done since training began. Lightning restores
    that number before it makes the iterator, even in the middle of an epoch, but calls `set_epoch` only after workers
    have received their first batches. It is a DistributedSampler because Lightning recognises by that class that a
    sampler distributes the data itself."""

    def __init__(
        self,
        dataset: Dataset,
        batches: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], int] = lambda: 0,
    ):
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=False)
        self.batches = batches
        self.batch_size = batch_size
        self.position = position

    def __iter__(self) -> Iterator[int]:
        first = self.position() * self.batch_size
        return (self.rank + self.num_replicas * own for own in range(first, first + len(self)))

    def __len__(self) -> int:
        return self.batches * self.batch_size
