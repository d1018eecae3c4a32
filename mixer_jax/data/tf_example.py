"""Parser of records as TFDS stores them (serialised `tf.train.Example`).

TFDS's own parser supports every kind of feature, but holds Python's global lock for most of its
time: with several threads it costs more than a tenth of decoding a photograph. The usual features
of image data sets are parsed here.
"""

import functools
from collections.abc import Callable
from typing import Any

from mixer_jax.data.source import MalformedError
from mixer_jax.errors import one_line


def parser(features) -> functools.partial[dict[str, Any]]:
  """Return a function that parses records with these TFDS features; images stay encoded.

  It raises `MalformedError` if the bytes are not a record, or lack a feature.
  """
  import tensorflow_datasets as tfds

  image, text, label = (getattr(tfds.features, n) for n in ('Image', 'Text', 'ClassLabel'))
  fields = {image: 'bytes_list', text: 'bytes_list', label: 'int64_list'}
  kinds = {name: type(features[name]) for name in features}
  if all(kind in fields for kind in kinds.values()):
    return functools.partial(_parse, {name: fields[kind] for name, kind in kinds.items()})
  keep = {'image': tfds.decode.SkipDecoding()}
  parse = functools.partial(features.deserialize_example_np, decoders=keep)
  return functools.partial(_parsed_by_tfds, parse)


def _parse(fields: dict[str, str], data: bytes) -> dict[str, Any]:
  from google.protobuf.message import DecodeError
  from tensorflow_datasets.proto import tf_example_pb2

  try:
    stored = tf_example_pb2.Example.FromString(data).features.feature
  except DecodeError as error:
    raise MalformedError('is not a tf.train.Example') from error
  found = {name: getattr(stored[name], field).value for name, field in fields.items()}
  for name, values in found.items():
    if len(values) != 1:
      raise MalformedError(f'has {len(values) or "no"} values of {name!r} instead of one')
  return {name: values[0] for name, values in found.items()}


def _parsed_by_tfds(parse: Callable[[bytes], dict[str, Any]], data: bytes) -> dict[str, Any]:
  try:
    return parse(data)
  except Exception as error:  # TFDS and protobuf raise many kinds
    raise MalformedError(f'cannot be parsed: {one_line(error, 150)}') from error
