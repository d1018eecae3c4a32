"""Random order of training examples, and the random numbers of each: functions of the position.

The position decides both, so any process can make any example of a run. They are those of Grain's
`MapDataset.range(size).seed(seed).shuffle().repeat(None).random_map(...)`, to the bit, with which
this package made its batches before.

The permutation of an epoch is a block cipher with four rounds of Simon (Beaulieu et al. 2013,
https://eprint.iacr.org/2013/404), applied again until the result is below the size ("cycle
walking", Black and Rogaway 2002). It is described in `index_shuffle.cc` of
https://github.com/google/grain, which has it from TensorFlow's `random_index_shuffle`.
"""

import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np


class Order:
  """Endless order of the examples of a data set; every epoch is another permutation of all.

  There is one exception, kept from Grain: with 4**k + 1 examples, from 65,537 on, an epoch has one
  example twice and lacks another.

  An order can be pickled, and used from several threads.
  """

  def __init__(self, size: int, seed: int):
    if not 1 <= size <= 2**32:
      raise ValueError(f'an order has 1 to 2**32 examples, not {size}')
    self.size, self.seed = size, seed
    self._shuffle_seed = _derived(seed, depth=1)
    self._half = max(8, ((size - 2).bit_length() + 1) // 2)
    self._mixed = _mixed(self._half).tolist()
    self._streams = _Streams(_derived(seed, depth=3))

  def __reduce__(self):
    return Order, (self.size, self.seed)

  def records(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the index of the example at each position, int64."""
    return np.array([self._record(place) for place in np.asarray(positions).tolist()], np.int64)

  def generator(self, position: int) -> np.random.Generator:
    """Return the generator of the random numbers at a position, at its beginning.

    Each thread has one generator: a call ends the use of the previous one.
    """
    streams = self._streams
    streams.counter[3] = position
    streams.bits.state = streams.start
    return streams.generator

  def _record(self, position: int) -> int:
    """Return the index of the example at a position.

    Plain integers: a NumPy call costs more than the few passes that most examples need.
    """
    epoch, index = divmod(position, self.size)
    seed = (self._shuffle_seed + epoch) % 2**32
    if self._half == 8:
      return int(_small_permutation(self.size, seed)[index % 2**16])
    keys = _round_keys(seed, self._half)
    while True:
      index = _encrypted(index, keys, self._mixed, self._half)
      if index < self.size:
        return index


class _Streams(threading.local):
  """Generator of a thread, and the state that sets it to the beginning of a stream."""

  def __init__(self, seed: int):
    self.bits = np.random.Philox(seed)
    self.generator = np.random.Generator(self.bits)
    self.counter = [0, 0, 0, 0]
    # The setter reads lists faster than arrays.
    state = {'counter': self.counter, 'key': self.bits.state['state']['key'].tolist()}
    self.start: Any = {**self.bits.state, 'state': state, 'buffer': [0, 0, 0, 0]}


def _derived(seed: int, depth: int) -> int:
  """Return the seed of a step of Grain's pipeline, `depth` steps after the one that has `seed`."""
  return int(np.random.SeedSequence([seed, depth]).generate_state(1, np.uint32)[0])


@functools.lru_cache(maxsize=64)
def _small_permutation(size: int, seed: int) -> np.ndarray:
  """Return the order of an epoch whose blocks have 16 bits.

  One may need thousands of passes until it is below the size. All blocks are encrypted at once,
  and each round of the loop doubles the passes of those that are not there yet.
  """
  after = _encrypted(np.arange(2**16), _round_keys(seed, 8), _mixed(8), 8)
  while (outside := after >= size)[:size].any():
    after = np.where(outside, after[after], after)
  return after[:size].astype(np.uint16)


def _encrypted(block, keys, mixed, half):
  """Encrypt a block of two halves of `half` bits each, or an array of blocks."""
  low = 2**half - 1
  left, right = block >> half & low, block & low
  left = left ^ mixed[right] ^ keys[0]
  right = right ^ mixed[left] ^ keys[1]
  left = left ^ mixed[right] ^ keys[2]
  right = right ^ mixed[left] ^ keys[3]
  return left << half | right


@functools.cache
def _mixed(half: int) -> np.ndarray:
  """Return Simon's function of each half block of `half` bits."""
  words = np.arange(2**half)
  rotated = {shift: words << shift | words >> half - shift for shift in (1, 2, 8)}
  return (rotated[1] & rotated[8] ^ rotated[2]) & 2**half - 1


@functools.lru_cache(maxsize=64)
def _round_keys(seed: int, half: int) -> tuple[int, ...]:
  """Return the keys of the four rounds: four words of C++'s `std::seed_seq{seed}`, cut to `half`.

  The constants and steps are those of the C++ standard, [rand.util.seedseq].
  """
  low = 2**32 - 1
  words = [0x8B8B8B8B] * 4
  for k, added in enumerate((1, 1 + seed, 2, 3)):
    following, opposite = (k + 1) % 4, (k + 2) % 4
    drawn = 1664525 * _folded(words[k] ^ words[following] ^ words[k - 1])
    words[following] = (words[following] + drawn) & low
    words[opposite] = (words[opposite] + drawn + added) & low
    words[k] = (drawn + added) & low
  for k in range(4):
    following, opposite = (k + 1) % 4, (k + 2) % 4
    drawn = 1566083941 * _folded((words[k] + words[following] + words[k - 1]) & low)
    words[following] ^= drawn & low
    words[opposite] ^= (drawn - k) & low
    words[k] = (drawn - k) & low
  return tuple(word & 2**half - 1 for word in words)


def _folded(word: int) -> int:
  return word ^ word >> 27
