"""Names of a model's classes come before positions."""

import dataclasses
import logging

import pytest

from mixer_jax.checkpoints.load import Checkpoint
from mixer_jax.data.catalog import class_ids
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from mixer_jax.runs.checkpoint_labels import align_classes
from tests.helpers import reference


def model(size: int, classes: tuple[str, ...] = ()) -> Checkpoint:
  """A checkpoint of a run with these classes; of a file without names if there are none."""
  config, _, _ = reference.golden()
  metadata = {'classes': list(classes)} if classes else {}
  config = dataclasses.replace(config, num_classes=size)
  return Checkpoint(config, {}, 'training state', 'x', metadata=metadata)


def labels(checkpoint: Checkpoint, *names: str) -> list[int]:
  """The labels that folders of these names get."""
  records = [{'image': b'', 'label': i} for i in range(len(names))]
  aligned = align_classes(checkpoint, Source('folder:x', names, records))
  return [aligned[i]['label'] for i in range(len(names))]


def test_numbers_are_names_where_the_model_knows_them():
  coins = model(4, ('1', '2', '5', '10'))
  assert labels(coins, '1', '2', '10') == [0, 1, 3]
  with pytest.raises(UserError, match='the model does not have: 3; it has 1, 2, 5, 10: name its'):
    labels(coins, '1', '2', '3')
  with pytest.raises(UserError, match='does not have: 0, 3; it has a, b'):
    labels(model(4, ('a', 'b', 'c', 'd')), '0', '3')


def test_case_does_not_matter_and_the_pairs_are_logged(caplog):
  with caplog.at_level(logging.INFO):
    assert labels(model(2, ('china', 'flower')), 'Flower', 'china') == [1, 0]
  assert 'folder:x: names matched: Flower → flower' in caplog.text


def test_equally_many_other_names_are_not_taken_by_order():
  with pytest.raises(UserError, match='the model does not have: zebra; it has china, flower'):
    labels(model(2, ('china', 'flower')), 'flower', 'zebra')


def test_order_and_numbers_are_for_models_without_names(caplog):
  assert labels(model(4), '0', '3') == [0, 3]
  assert not caplog.text
  assert labels(model(2), 'flower', 'zebra') == [0, 1]
  assert 'no class names: folder:x is matched by order, flower → 0, zebra → 1' in caplog.text
  with pytest.raises(UserError, match='the model has 3 classes and folder:x has 2: name its'):
    labels(model(3), 'flower', 'zebra')


def test_the_ids_and_the_words_of_imagenet_are_names_of_one_class():
  ids = class_ids('imagenet2012')
  imagenet = model(1000, ids)
  assert labels(imagenet, ids[3], ids[0]) == [3, 0]
  assert labels(imagenet, 'Tiger Shark', 'tench, Tinca tinca', 'goldfish') == [3, 0, 1]
  with pytest.raises(UserError, match='does not have: crane;'):  # a bird and a machine
    labels(imagenet, 'crane')
  words = model(2, ('goldfish', 'tench'))
  assert labels(words, ids[0], ids[1]) == [1, 0]
