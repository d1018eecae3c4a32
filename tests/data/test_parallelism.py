"""Choice of worker processes and threads by cores and images."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from mixer_jax.data import parallelism
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from tests.helpers import configs

AUTO = configs.data(name='made', workers='auto', threads='auto')


def images(side: int) -> Source:
  buffer = io.BytesIO()
  Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(buffer, 'PNG')
  return Source('made', ('a',), [{'image': buffer.getvalue(), 'label': 0}])


@pytest.mark.parametrize(
  ('cores', 'side', 'size', 'examples', 'expected'),
  [
    *((2, 224, 224, None, (0, 2)), (4, 224, 224, None, (4, 2)), (96, 224, 224, None, (96, 2))),
    *((96, 32, 32, None, (0, 0)), (96, 32, 224, None, (96, 2)), (96, 224, 32, None, (96, 2))),
    *((96, 224, 224, 4_999, (0, 4)), (96, 224, 224, 5_000, (96, 2))),
  ],
)
def test_auto(monkeypatch, cores, side, size, examples, expected):
  monkeypatch.setattr(parallelism, 'cores', lambda: cores)
  assert parallelism.chosen(AUTO, images(side), size, examples) == expected


@pytest.mark.parametrize(
  ('workers', 'threads', 'expected'),
  [
    *((0, 0, (0, 0)), (0, 3, (0, 3)), (2, 0, (2, 1)), (2, 3, (2, 3)), ('2', '3', (2, 3))),
    *((3, 'auto', (3, 2)), ('auto', 0, (0, 0)), ('auto', 4, (96, 4)), (0, 'auto', (0, 4))),
  ],
)
def test_numbers_are_taken_as_they_are(monkeypatch, workers, threads, expected):
  monkeypatch.setattr(parallelism, 'cores', lambda: 96)
  config = dataclasses.replace(AUTO, workers=workers, threads=threads)
  assert parallelism.chosen(config, images(224), 224) == expected


@pytest.mark.parametrize('value', [-1, 257, '1.5', 'all', True, 2.0, None])
def test_other_values_are_refused(value):
  with pytest.raises(UserError, match=r"data\.workers must be in 0\.\.256 or 'auto'"):
    dataclasses.replace(AUTO, workers=value)


def test_an_image_that_does_not_decode_is_not_small():
  broken = dataclasses.replace(images(8), records=[{'image': b'', 'label': 0}])
  assert parallelism.chosen(AUTO, broken, 8).threads > 0


@pytest.mark.parametrize(
  ('chosen', 'prefetch', 'ahead'),
  [((0, 0), 512, 0), ((0, 16), 512, 512), ((0, 64), 512, 1024), ((2, 4), 0, 256)],
)
def test_nobody_is_idle(chosen, prefetch, ahead):
  assert parallelism.Parallelism(*chosen).ahead(prefetch) == ahead
