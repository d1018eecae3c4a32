"""A record as TFDS stores it (a serialised `tf.train.Example`) -> its features.

TFDS's own parser serves every kind of feature, and holds Python's lock for most of the time
that it takes: with several threads it costs more than a tenth of decoding a photograph. What
a data set of images usually has is parsed here.
"""

import functools
from collections.abc import Callable
from typing import Any

from mixer_jax.data.source import MalformedError


def parser(features) -> functools.partial[dict[str, Any]]:
  """What parses the records of a data set with these TFDS features; images stay encoded.

  It raises `MalformedError` where the bytes are no record, or lack a feature.
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
    raise MalformedError('is no tf.train.Example') from error
  found = {name: getattr(stored[name], field).value for name, field in fields.items()}
  for name, values in found.items():
    if len(values) != 1:
      raise MalformedError(f'has {len(values) or "no"} values of {name!r}, where one belongs')
  return {name: values[0] for name, values in found.items()}


def _parsed_by_tfds(parse: Callable[[bytes], dict[str, Any]], data: bytes) -> dict[str, Any]:
  try:
    return parse(data)
  except Exception as error:  # whatever TFDS and protobuf raise
    raise MalformedError(f'cannot be parsed: {" ".join(str(error).split())[:150]}') from error
