"""The included data set: counts, split and pixels of the digits."""

import collections

import numpy as np
from sklearn.datasets import load_digits

from mixer_jax.data.catalog import open_source
from mixer_jax.data.decode import decode


def test_it_is_scikit_learns_digits_with_a_fixed_split(digits_dir):
  digits = load_digits()  # pyright: ignore[reportAttributeAccessIssue]
  grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
  known = collections.Counter(
    (image.tobytes(), label) for image, label in zip(grey, digits.target, strict=True)
  )
  seen = collections.Counter()
  for split, count in (('train', 1437), ('test', 360)):
    source = open_source('digits', split, str(digits_dir))
    assert len(source) == count
    assert source.classes == tuple('0123456789')
    labels = collections.Counter()
    for i in range(count):
      record = source[i]
      image = decode(record['image'])
      assert (image == image[..., :1]).all()  # grey
      seen[image[..., 0].tobytes(), record['label']] += 1
      labels[record['label']] += 1
    for label, full in collections.Counter(digits.target).items():
      assert abs(labels[label] - full * count / 1797) <= 1.5  # stratified
  assert seen == known  # nothing lost, nothing in both


def test_records_are_named(digits_dir):
  record = open_source('digits', 'test[:50%]', str(digits_dir))[7]
  assert record['name'] == 'digits/test[:50%]#7'
