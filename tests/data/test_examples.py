"""Records parsed here, and by TFDS's own parser."""

import io
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mixer_jax.data import examples
from mixer_jax.data.builders import random_access
from tests.data.made import prepare
from tests.data.photos import encoded, photo

RECORD = {
  'image': lambda i: io.BytesIO(encoded(photo(20 + i, 30), 'PNG')),
  'label': lambda i: i,
  'original_label': lambda i: i,
  'real_label': lambda i: list(range(i)),
  'file_name': lambda i: '' if i == 2 else f'ä{i}.png',
  'id': lambda i: f'{i}',
}


def made(features, index: int) -> dict:
  record = {name: RECORD[name](index) for name in features}
  height, width, _ = features['image'].shape
  if height is not None:
    record['image'] = photo(height, width, index % 2)
  return record


@pytest.mark.parametrize(
  ('name', 'split', 'is_ours'),
  [
    *(('imagenet2012', 'train', True), ('cifar10', 'test', True), ('imagenet_v2', 'test', True)),
    ('imagenet2012_real', 'validation', False),
  ],
)
def test_records_are_those_of_tfds(tmp_path: pathlib.Path, name, split, is_ours):
  features = tfds.builder(name, data_dir=tmp_path).info.features
  prepare(name, split, [made(features, index) for index in range(5)], tmp_path)
  builder = tfds.builder(name, data_dir=tmp_path)
  keep = {'image': tfds.decode.SkipDecoding()}
  theirs = builder.as_data_source(split=split, decoders=keep)
  ours = random_access(builder, name, split)
  assert len(ours) == len(theirs) == 5
  for i in range(5):
    assert ours[i].keys() == theirs[i].keys()
    for key, value in theirs[i].items():
      assert type(ours[i][key]) is type(value)
      np.testing.assert_array_equal(ours[i][key], value)
  assert (examples.parser(builder.info.features).func is examples._parse) == is_ours
