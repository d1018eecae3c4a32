"""Records parsed by this package and by TFDS."""

import io
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from mixer_jax.data import tf_example
from mixer_jax.data.source import MalformedError, Source
from mixer_jax.data.tfds_builders import random_access
from mixer_jax.errors import UserError
from tests.helpers.made import prepare
from tests.helpers.photos import encoded, photo

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
    ('imagenet2012_real', 'validation', True),
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
  assert (tf_example.parser(builder.info.features).func is tf_example._parse) == is_ours


def example(**values) -> bytes:
  """A serialised `tf.train.Example` of lists of bytes and ints."""
  made = tf_example_pb2.Example()
  for name, value in values.items():
    field = 'bytes_list' if isinstance(value[0], bytes) else 'int64_list'
    getattr(made.features.feature[name], field).value.extend(value)
  return made.SerializeToString()


WHOLE = {'image': [b'x'], 'label': [3], 'file_name': [b'a.JPEG']}
MALFORMED = {
  'no label': example(image=[b'x'], file_name=[b'a']),
  'no image': example(label=[3], file_name=[b'a']),
  'two labels': example(**{**WHOLE, 'label': [3, 4]}),
  'a label of bytes': example(**{**WHOLE, 'label': [b'3']}),
  'no example': b'\xff' * 50,
  'cut off': example(**WHOLE)[:-3],
  'empty': b'',
}


@pytest.mark.parametrize('fault', MALFORMED)
@pytest.mark.parametrize('name', ['imagenet2012', 'imagenet2012_real'])
def test_malformed_records_are_named(name, fault, tmp_path):
  parse = tf_example.parser(tfds.builder(name, data_dir=tmp_path).info.features)

  class Records(list):
    def __getitem__(self, index):
      return parse(MALFORMED[fault])

  with pytest.raises(MalformedError):
    parse(MALFORMED[fault])
  label = 'original_label' if name.endswith('real') else 'label'
  source = Source('made/train', ('a',), Records([0] * 9), label)
  with pytest.raises(
    UserError, match=r'record made/train#7 .*: prepare the data set again'
  ) as error:
    source[7]
  assert '\n' not in str(error.value)
