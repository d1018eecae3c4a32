"""A record as TFDS stores it (a serialised `tf.train.Example`) -> its features.

TFDS's own parser serves every kind of feature, and holds Python's lock for most of the time
that it takes: with several threads it costs more than a tenth of decoding a photograph. What
a data set of images usually has is parsed here.
"""

import functools
from typing import Any


def parser(features) -> functools.partial[dict[str, Any]]:
  """What parses the records of a data set with these TFDS features; images stay encoded."""
  import tensorflow_datasets as tfds

  image, text, label = (getattr(tfds.features, n) for n in ('Image', 'Text', 'ClassLabel'))
  fields = {image: 'bytes_list', text: 'bytes_list', label: 'int64_list'}
  kinds = {name: type(features[name]) for name in features}
  if all(kind in fields for kind in kinds.values()):
    return functools.partial(_parse, {name: fields[kind] for name, kind in kinds.items()})
  keep = {'image': tfds.decode.SkipDecoding()}
  return functools.partial(features.deserialize_example_np, decoders=keep)


def _parse(fields: dict[str, str], data: bytes) -> dict[str, Any]:
  from tensorflow_datasets.proto import tf_example_pb2

  stored = tf_example_pb2.Example.FromString(data).features.feature
  return {name: getattr(stored[name], field).value[0] for name, field in fields.items()}
