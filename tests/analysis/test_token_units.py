"""Orders and pairs of made weights, whose frequencies and opposites are known."""

import dataclasses

import jax
import numpy as np
import pytest

from mixer_jax import models
from mixer_jax.analysis import token_units
from mixer_jax.errors import UserError
from mixer_jax.models import MixerConfig, ResNetConfig
from mixer_jax.models.resolution import grow
from tests.helpers.factories import tiny_vit

GRID = 14
CONFIG = MixerConfig(16, 2, 8, 24, 8)  # 14×14 tokens
# Whole periods on the grid, so that all power is at one frequency: (p, q) / 14 cycles a token.
WAVES = (
  (0, 0),
  (0, 1),
  (1, 1),
  (2, 0),
  (2, 1),
  (0, 3),
  (3, 2),
  (4, 0),
  (4, 3),
  (6, 1),
  (5, 5),
  (7, 7),
)


def grating(p: int, q: int, phase: float, grid: int = GRID) -> np.ndarray:
  row, column = np.mgrid[:grid, :grid]
  return np.cos(2 * np.pi * (p * row + q * column) / GRID + phase)


def kernel(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """(S, 24): a grating and its negative of each wave, shuffled; and where each column was."""
  rng = np.random.default_rng(seed)
  columns = []
  for wave in WAVES:
    picture = grating(*wave, phase=0.3) * rng.uniform(0.5, 2)
    columns += [picture.ravel(), -picture.ravel()]
  places = rng.permutation(24)
  return np.stack(columns, axis=1)[:, places].astype(np.float32), places


def mixer(columns: np.ndarray) -> dict:
  params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), models.shapes(CONFIG))
  params['MixerBlock_1']['token_mixing']['Dense_0']['kernel'] = columns
  return params


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_gratings_and_their_negatives_are_ordered_and_paired(seed):
  columns, places = kernel(seed)
  units = token_units.token_units(CONFIG, mixer(columns), 1)
  found = token_units.frequencies(units)
  expected = np.array([np.hypot(*WAVES[place // 2]) / GRID for place in places])
  np.testing.assert_allclose(found, expected, atol=1e-6)
  order = token_units.in_opposite_pairs(units, found)
  assert sorted(order) == list(range(24))
  assert (places[order[0::2]] // 2 == places[order[1::2]] // 2).all()
  assert (np.diff(expected[order]) > -1e-9).all()
  np.testing.assert_allclose(token_units.pair_cosines(units, order), -1, atol=1e-6)


def test_a_unit_is_its_column_in_raster_order():
  columns = np.random.default_rng(0).normal(size=(196, 24)).astype(np.float32)
  units = token_units.token_units(CONFIG, mixer(columns), 1)
  assert units.shape == (24, 14, 14)
  for row, column, unit in ((0, 0, 0), (3, 5, 7), (13, 12, 23)):
    assert units[unit, row, column] == columns[row * 14 + column, unit]


@pytest.mark.parametrize('factor', [2, 3])
def test_a_grown_unit_lies_in_its_part_and_stays_next_to_its_opposite(factor):
  columns, _ = kernel()
  small = token_units.token_units(CONFIG, mixer(columns), 1)
  config, params = grow(CONFIG, mixer(columns), factor * 224)
  units = token_units.token_units(config, params, 1)
  assert units.shape == (24 * factor**2, 14 * factor, 14 * factor)
  for part in range(factor**2):
    top, left = (14 * place for place in divmod(part, factor))
    inside = units[24 * part : 24 * (part + 1), top : top + 14, left : left + 14]
    np.testing.assert_array_equal(inside, small)
    assert not np.delete(units[24 * part], np.s_[top : top + 14], axis=0).any()
  frequency = token_units.frequencies(units)
  parts = np.abs(frequency.reshape(factor**2, 24) - frequency[:24])  # wherever a unit lies
  assert parts.max() < 1e-9
  order = token_units.in_opposite_pairs(units, frequency)
  assert (order[0::2] // 24 == order[1::2] // 24).all()  # in one part
  np.testing.assert_allclose(token_units.pair_cosines(units, order), -1, atol=1e-6)


def test_the_mean_is_weighted_by_power_against_a_slow_transform():
  picture = np.random.default_rng(0).normal(size=(5, 5))
  places = np.arange(5)
  total = moment = 0.0
  for p in (-2, -1, 0, 1, 2):
    for q in (-2, -1, 0, 1, 2):
      wave = np.exp(-2j * np.pi * (p * places[:, None] + q * places) / 5)
      power = abs((picture * wave).sum()) ** 2
      total, moment = total + power, moment + power * np.sqrt(p**2 + q**2) / 5
  assert token_units.frequencies(picture[None])[0] == pytest.approx(moment / total, rel=1e-12)


def test_power_is_summed_over_colours_and_constant_or_empty_pictures_are_lowest():
  red, blue = grating(0, 2, 0.1), 3 * grating(0, 4, 0.2)
  patch = np.stack([red, np.zeros_like(red), blue], axis=-1)
  found = token_units.frequencies(np.stack([patch, np.ones_like(patch), np.zeros_like(patch)]))
  np.testing.assert_allclose(found, [(2 + 9 * 4) / 10 / 14, 0, 0], atol=1e-12)
  checkerboard = np.indices((6, 6)).sum(0) % 2 - 0.5
  assert token_units.frequencies(checkerboard[None])[0] == pytest.approx(np.sqrt(0.5))


def test_the_last_of_an_odd_number_has_no_partner():
  pictures = np.stack([grating(0, 1, 0), grating(0, 5, 0), -grating(0, 1, 0)])
  order = token_units.in_opposite_pairs(pictures, token_units.frequencies(pictures))
  assert order[-1] == 1
  assert set(order[:2]) == {0, 2}
  assert token_units.pair_cosines(pictures, order) == pytest.approx([-1])
  empty = np.zeros((2, 4, 4))
  assert token_units.pair_cosines(empty, np.array([0, 1])) == [0]


def test_a_part_of_an_order_is_complete_pairs_from_beginning_to_end():
  order = np.random.default_rng(0).permutation(21)
  np.testing.assert_array_equal(token_units.spread(order, 21), order)
  np.testing.assert_array_equal(token_units.spread(order, 100), order)
  some = token_units.spread(order, 6)
  assert list(some) == [*order[:2], *order[10:12], order[20]]
  np.testing.assert_array_equal(token_units.spread(order, 3, group=1), order[[0, 10, 20]])


@pytest.mark.parametrize(
  ('config', 'name', 'side'),
  [
    (CONFIG, 'stem', 16),
    (tiny_vit(hidden_dim=8), 'embedding', 4),
    (ResNetConfig('1', width=0.5), 'stem', 7),
  ],
)
def test_the_stem_is_a_patch_for_each_channel(config, name, side):
  shape = models.shapes(config)[name]['kernel'].shape
  kernel = np.random.default_rng(0).normal(size=shape)
  patches = token_units.stem_patches(config, {name: {'kernel': kernel}})
  assert patches.shape == (shape[-1], side, side, 3)
  shift = kernel[..., 3] - patches[3]  # a ResNet standardises its kernels
  wanted = kernel[..., 3].mean() if isinstance(config, ResNetConfig) else 0
  np.testing.assert_allclose(shift, wanted, atol=1e-12)


@pytest.mark.parametrize('block', [-1, 2])
def test_an_unknown_block_is_refused(block):
  config = dataclasses.replace(CONFIG, num_blocks=2)
  with pytest.raises(UserError, match='this Mixer has blocks 0 to 1'):
    token_units.token_units(config, mixer(kernel()[0]), block)
