"""Choice of few-shot images: balanced, deterministic, nested, and read no further than needed."""

import numpy as np
import pytest

from mixer_jax.data.source import Source
from mixer_jax.data.subset import SourceLabels, choose_shots, subset
from mixer_jax.errors import UserError

CLASSES = ('a', 'b', 'c')


class _Counting:
  """Records that count their reads."""

  def __init__(self, labels):
    self.labels, self.read = labels, []

  def __len__(self):
    return len(self.labels)

  def __getitem__(self, index):
    self.read.append(index)
    return {'image': b'', 'label': self.labels[index]}


def test_choice_is_balanced_deterministic_and_nested():
  labels = np.random.default_rng(0).choice(3, 200, p=[0.1, 0.3, 0.6])
  chosen = choose_shots(labels, 5, 0, CLASSES)
  assert chosen.shape == (3, 5)
  assert np.unique(chosen).size == 15
  np.testing.assert_array_equal(labels[chosen], np.arange(3)[:, None].repeat(5, 1))
  np.testing.assert_array_equal(chosen, choose_shots(labels, 5, 0, CLASSES))
  assert not np.array_equal(chosen, choose_shots(labels, 5, 1, CLASSES))
  for fewer in range(1, 5):
    np.testing.assert_array_equal(chosen[:, :fewer], choose_shots(labels, fewer, 0, CLASSES))


def test_choice_is_uniform_over_a_class():
  labels = np.repeat([0, 1], [10, 30])
  chosen = [choose_shots(labels, 2, seed, ('a', 'b')) for seed in range(500)]
  counts = np.bincount(np.ravel(chosen), minlength=40)
  assert counts[:10].sum() == counts[10:].sum() == 1000
  assert abs(counts[:10] - 100).max() < 40  # 4.5 deviations


def test_labels_are_read_no_longer_than_needed_and_once():
  many = Source('many', CLASSES, _Counting([i % 3 for i in range(5000)]))  # pyright: ignore
  labels = SourceLabels(many, threads=4)
  known = np.arange(5000) % 3
  for seed in range(2):
    np.testing.assert_array_equal(
      choose_shots(labels, 4, seed, CLASSES),
      choose_shots(known, 4, seed, CLASSES),
    )
  read = many.records.read  # pyright: ignore
  assert len(read) == len(set(read)) <= 2 * labels.BLOCK
  assert labels[7] == 1


@pytest.mark.parametrize(
  ('labels', 'reads', 'message'),
  [
    ([0, 1, 2] * 3 + [0, 1], 0, r'class 2 \(c\) has 3 examples, too few for 4 shots: ask for'),
    ([0, 1] * 9, 0, r'class 2 \(c\) has 0 examples, too few'),
    ([0, 1, 2] * 9, 3, r'among the 3 that were read: raise few-shot max_reads'),
    ([0, 1, 3] * 9, 0, 'has label 3, of 3 classes'),
  ],
)
def test_classes_with_too_few_examples_are_named(labels, reads, message):
  with pytest.raises(UserError, match=message):
    choose_shots(labels, 4, 0, CLASSES, max_reads=reads)


def test_a_subset_has_the_chosen_records_in_their_order():
  part = subset(Source('some', CLASSES, _Counting([0, 1, 2, 1])), np.array([3, 0]))  # pyright: ignore
  assert (part.name, len(part)) == ('some, 2 chosen', 2)
  assert [part[i]['label'] for i in range(2)] == [1, 0]
