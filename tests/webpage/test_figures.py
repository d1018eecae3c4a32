"""Figures of studies: tables and charts follow from the shape of the data."""

import json
import pathlib

from mixer_jax.webpage import figures
from tests.webpage.test_html import NASTY, Texts

PERMUTED = pathlib.Path(__file__).parents[2] / 'benchmarks' / 'results' / 'permutation_digits.json'


def shown(value, name: str = '') -> Texts:
  return Texts(''.join(figures.elements(value, name)))


def words(value) -> str:
  return ' '.join(shown(value).texts)


def test_the_permutation_study_is_tables_and_charts():
  report = json.loads(PERMUTED.read_text())
  parsed = shown(report)
  assert parsed.elements.count('table') == 3  # the models, and the inputs of each
  assert parsed.elements.count('figure') == 2
  assert 'details' not in parsed.elements
  for text in (
    'mixer',
    'resnet',
    '141,578',
    'mean ± deviation',
    '92.59 ± 2.01',
    '0 ± 0',
    '0, 1, 2',
  ):
    assert text in parsed.texts
  curves = [v for v in parsed.values if v.startswith('25 ') and ' 50 ' in v]
  assert len(curves) == 2 * 3 * (3 + 1)  # each kind of input has three seeds and their mean
  seeds = report['mixer']['inputs']['none']['top1']
  mean = sum(seed['400'] for seed in seeds) / 3
  assert any(curve.endswith(f' 400 {mean:.5g}') for curve in curves)


def test_a_list_of_rows_with_nested_columns():
  rows = [
    {'score': 'cka', 'removed': [3, 4], 'latency': {'seconds': 0.5, 'ratio': 0.75}},
    {'score': 'random', 'removed': [1], 'latency': {'seconds': 0.25, 'ratio': 0.5}, 'more': None},
  ]
  parsed = shown({'device': 'cpu', 'rows': rows})
  for text in ('latency seconds', 'latency ratio', 'cka', '3, 4', '0.75', '–', 'device', 'rows'):
    assert text in parsed.texts
  assert parsed.elements.count('tr') == 2 + 3


def test_nested_values_of_rows_are_collapsed():
  rate = lambda top1: {'top1': top1, 'loss': 0.5}
  tasks = {
    name: {'mean': 90.0, 'deviation': None, 'rates': {'0.01': rate(1.5), '0.03': rate(2.5)}}
    for name in ('avg5/pets', 'avg5/flowers')
  }
  parsed = shown({'checkpoint': 'x', 'tasks': tasks})
  assert parsed.elements.count('details') == 1
  for text in ('avg5/pets', 'tasks · rates', '90.00', '2.50', 'top-1, %'):
    assert text in parsed.texts
  assert 'None' not in ' '.join(parsed.texts)


def test_one_curve_and_several():
  assert shown({'1': 0.5, '10': 0.25}).elements.count('figure') == 1
  assert shown({'a': {'1': 1, '2': 2}, 'b': {'1': 3, '2': 4}}).elements.count('figure') == 1
  assert shown({'a': {'1': 1, '2': 'x'}, 'b': {'1': 3, '2': 4}}).elements.count('figure') == 0


def test_any_json_is_shown_and_none_of_it_becomes_markup():
  values = [
    *(None, True, 7, 1.5, NASTY, [], {}, [[]], [{}], {'a': {}}, {NASTY: {NASTY: [NASTY]}}),
    *([1, [2, [3, [4]]]], {'a': [{'b': 1}, 2]}, [{'a': NASTY}, {'a': {NASTY: NASTY}}]),
    *({'1': 1e308, '2': float('nan')}, [float('inf')] * 100, {'1': float('inf'), '2': 1}),
    {'mean': 1e308, 'deviation': 10**400},
  ]
  for value in values:
    assert 'script' not in shown(value, NASTY).elements
  assert 'yes' in words({'a': True})
  assert '… (100 in total)' in words({'a': list(range(100))})
  deep: object = 1
  for _ in range(200):
    deep = {'x': deep, 'y': [deep]} if isinstance(deep, int) else {'x': deep}
  assert 'deeper levels are left out' in words(deep)
  many = {f'{i}': {'a': i} for i in range(1000)}
  assert '600 more rows are in the file' in words(many)
