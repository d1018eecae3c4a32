"""Classes of two lists are matched by their names."""

import unicodedata

import pytest

from mixer_jax.data.class_names import matched, positions, some
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError


def test_an_equal_name_counts_most_then_case_and_accents_then_an_alias():
  known = ('Cat', 'cat', 'Dog', 'café', 'n1')
  aliases = lambda name: {'n1': ('tench', 'Tinca tinca')}.get(name, ())
  names = ('cat', 'Cat', 'CAT', 'dog', unicodedata.normalize('NFD', 'CAFÉ'), 'tinca tinca', 'x')
  assert positions(names, known, aliases) == [1, 0, None, 2, 3, 4, None]


def test_an_alias_of_several_classes_is_none():
  aliases = lambda name: {'n1': ('crane',), 'n2': ('crane', 'lift')}.get(name, ())
  assert positions(('crane', 'lift'), ('n1', 'n2'), aliases) == [None, 1]


def source(*classes: str) -> Source:
  return Source('folder:x', classes, [{'image': b'', 'label': i} for i in range(len(classes))])


def test_labels_follow_the_names():
  found = matched(source('Flower', 'china'), ('china', 'flower'), 'the model', 'rename them')
  assert found.classes == ('china', 'flower')
  assert [found[i]['label'] for i in range(2)] == [1, 0]


def test_unknown_names_are_all_listed():
  with pytest.raises(UserError, match=r"does not have: 3, b'?c; it has 1, 2: rename them$"):
    matched(source('1', '3', 'bc'), ('1', '2'), 'the model', 'rename them')
  with pytest.raises(UserError, match='Cat, CAT are the same class of the model'):
    matched(source('Cat', 'CAT'), ('cat',), 'the model', '')
  assert some([str(i) for i in range(12)]) == '0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more'
