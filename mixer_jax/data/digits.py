"""`digits`: 1,797 handwritten digits that need no download, as a TFDS builder.

The 8×8 images of scikit-learn's `load_digits` (UCI Optical Recognition of Handwritten
Digits, test part; written by 43 people), available like any TFDS data set. Preparing it needs
TensorFlow, reading does not.
"""

import numpy as np
import tensorflow_datasets as tfds

NUM_TEST = 360


class Digits(tfds.core.GeneratorBasedBuilder):
  """8×8 grey PNG images, labels 0–9; 1,437 train and 360 test examples."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description='Handwritten digits, 8×8 pixels, 17 grey levels stretched to 0..255.',
      homepage='https://archive.ics.uci.edu/dataset/80',
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(8, 8, 1), encoding_format='png'),
          'label': tfds.features.ClassLabel(num_classes=10),
        }
      ),
      supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing to download
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    test = _stratified(digits.target, NUM_TEST)
    return {
      'train': self._generate_examples(images, digits.target, np.flatnonzero(~test)),
      'test': self._generate_examples(images, digits.target, np.flatnonzero(test)),
    }

  def _generate_examples(self, images, labels, indices):
    for index in indices:
      yield int(index), {'image': images[index], 'label': int(labels[index])}


def _stratified(labels: np.ndarray, count: int) -> np.ndarray:
  """Return a mask of `count` examples at equal distances in the order by label; not random."""
  by_label = np.argsort(labels, kind='stable')
  ticks = np.arange(len(labels) + 1) * count // len(labels)
  mask = np.zeros(len(labels), bool)
  mask[by_label] = np.diff(ticks) == 1
  return mask
