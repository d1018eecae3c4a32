"""The bilinear resize against TensorFlow's, to the bit."""

import numpy as np
import pytest

from mixer_jax.data.resize import bilinear
from tests.helpers.photos import photo

# (height, width) -> side: enlarged, reduced in one strip or several, one pixel, extreme shapes.
SHAPES = ((1, 1), (8, 8), (37, 211), (224, 224), (300, 290), (449, 447), (700, 900), (3, 800))


@pytest.mark.parametrize('side', [16, 57, 224])
def test_levels_are_tensorflows(side):
  import tensorflow as tf

  for height, width in SHAPES:
    image = photo(height + 20, width + 20)[10 : 10 + height, 10 : 10 + width]
    wanted = tf.image.resize(image, (side, side), method='bilinear', antialias=False)
    np.testing.assert_array_equal(bilinear(image, side, side, side), wanted)
    # The authors' `resize`: clip to the range of the dtype, then cast.
    wanted = tf.cast(tf.clip_by_value(wanted, 0, 255), tf.uint8)
    result = bilinear(image, side, side, side, np.uint8)
    np.testing.assert_array_equal(result, wanted, err_msg=f'{height} × {width}')
