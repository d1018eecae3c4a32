"""One global order of examples, for any number of processes and any first step."""

import dataclasses
import io
import itertools
import logging

import numpy as np
import pytest
from PIL import Image

from mixer_jax.data import examples, pipeline
from mixer_jax.data.batch import FILLER
from mixer_jax.data.source import Source
from mixer_jax.errors import StorageError, UserError
from tests.helpers import configs

PLAIN = configs.data(name='made', threads=0, eval_crop_fraction=1.0, min_crop_area=0.3)
CONFIG = dataclasses.replace(PLAIN, randaugment_layers=2, randaugment_magnitude=15.0)


def made(count: int, bad: tuple[int, ...] = ()) -> Source:
  """Return `count` records; pixels and label encode the index."""
  records = []
  for i in range(count):
    image = np.full((10, 10, 3), i, np.uint8)
    image[:, :5] = 255 - i
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'PNG')
    data = b'broken' if i in bad else buffer.getvalue()
    records.append({'image': data, 'label': i, 'file_name': f'{i}.png'})
  return Source('made/train', tuple(map(str, range(count))), records)


def train(count: int, steps: int, *, batch_size=8, config=CONFIG, **kwargs) -> list[dict]:
  iterator = pipeline.train_batches(
    made(count), config, image_size=12, batch_size=batch_size, seed=kwargs.pop('seed', 0), **kwargs
  )
  return [next(iterator) for _ in range(steps)]


def assert_same(a: list[dict], b: list[dict]):
  assert len(a) == len(b)
  for left, right in zip(a, b, strict=True):
    assert left.keys() == right.keys()
    for name in left:
      np.testing.assert_array_equal(left[name], right[name])


def test_batches_have_their_shapes_and_types():
  batch = train(20, 1)[0]
  assert batch['image'].shape == (8, 12, 12, 3)
  assert batch['image'].dtype == np.uint8
  assert batch['label'].shape == (8,)
  assert batch['label'].dtype == np.int32


@pytest.mark.parametrize('batch_size', [1, 7, 18])
def test_any_batch_size_cuts_the_same_order(batch_size):
  labels = np.concatenate([b['label'] for b in train(20, 36 // batch_size, batch_size=batch_size)])
  full = np.concatenate([batch['label'] for batch in train(20, 5)])
  np.testing.assert_array_equal(labels, full[: len(labels)])


def test_each_epoch_is_a_different_permutation():
  labels = np.concatenate([batch['label'] for batch in train(20, 10)]).reshape(4, 20)
  for epoch in labels:
    assert sorted(epoch) == list(range(20))
  assert len({tuple(epoch) for epoch in labels}) == 4


def test_pixels_belong_to_their_labels():
  for batch in train(20, 3, config=dataclasses.replace(PLAIN, flip=False, min_crop_area=1.0)):
    np.testing.assert_array_equal(batch['image'][:, 0, -1, 0], batch['label'])


def test_randaugment_follows_crop_and_flip():
  plain, augmented = train(20, 25, config=PLAIN), train(20, 25)
  same = []
  for before, after in zip(plain, augmented, strict=True):
    np.testing.assert_array_equal(before['label'], after['label'])
    same += (before['image'] == after['image']).all(axis=(1, 2, 3)).tolist()
  assert 0 < sum(same) < len(same) / 2  # two operations that do nothing are rare
  none = dataclasses.replace(CONFIG, randaugment_layers=0)
  assert_same(plain, train(20, 25, config=none))


def test_only_seed_and_step_decide():
  full = train(20, 8)
  assert_same(full, train(20, 8))
  assert_same(full[5:], train(20, 3, first_step=5))
  other = train(20, 8, seed=1)
  assert any((a['label'] != b['label']).any() for a, b in zip(full, other, strict=True))


@pytest.mark.parametrize('threads', [1, 4])
def test_threads_change_nothing(threads):
  config = dataclasses.replace(CONFIG, threads=threads, prefetch=16)
  assert_same(train(20, 6), train(20, 6, config=config))


@pytest.mark.parametrize('count', [2, 4, 8])
def test_processes_cut_the_same_global_batches(count):
  full = train(20, 6)
  parts = [train(20, 6, process=pipeline.Process(i, count)) for i in range(count)]
  joined = [
    {name: np.concatenate([part[step][name] for part in parts]) for name in full[0]}
    for step in range(6)
  ]
  assert_same(full, joined)
  late = train(20, 2, process=pipeline.Process(1, count), first_step=4)
  assert_same(parts[1][4:], late)


def test_an_example_is_augmented_differently_in_each_epoch():
  batches = train(4, 6, batch_size=4, config=PLAIN)
  crops = {batch['image'][list(batch['label']).index(2)].tobytes() for batch in batches}
  assert len(crops) > 1


def test_flips_are_half_of_the_time():
  config = dataclasses.replace(PLAIN, min_crop_area=1.0)
  batches = train(100, 10, config=config, batch_size=40)
  flipped = np.concatenate([batch['image'][:, 0, 0, 0] == batch['label'] for batch in batches])
  assert 0.4 < flipped.mean() < 0.6
  straight = dataclasses.replace(config, flip=False)
  for batch in train(100, 2, config=straight):
    np.testing.assert_array_equal(batch['image'][:, 0, 0, 0], 255 - batch['label'])


def evaluation(count: int, batch_size: int, **kwargs):
  source = made(count, kwargs.pop('bad', ()))
  return list(pipeline.eval_batches(source, CONFIG, image_size=12, batch_size=batch_size, **kwargs))


@pytest.mark.parametrize('count', [8, 20, 3])
def test_evaluation_has_every_example_once_and_padding(count):
  batches = evaluation(count, 8)
  assert all(batch['image'].shape == (8, 12, 12, 3) for batch in batches)
  index = np.concatenate([batch['index'] for batch in batches])
  mask = np.concatenate([batch['mask'] for batch in batches])
  label = np.concatenate([batch['label'] for batch in batches])
  np.testing.assert_array_equal(label[mask], np.arange(count))
  np.testing.assert_array_equal(index[mask], np.arange(count))
  assert (index[~mask] == FILLER).all()


def test_processes_share_an_evaluation():
  full = evaluation(20, 8)
  parts = [evaluation(20, 8, process=pipeline.Process(i, 4)) for i in range(4)]
  assert {len(part) for part in parts} == {3}
  for step, batch in enumerate(full):
    joined = np.concatenate([part[step]['index'] for part in parts])
    np.testing.assert_array_equal(joined, batch['index'])


def test_undecodable_images_are_named_masked_and_distinct_from_padding(caplog):
  with caplog.at_level(logging.WARNING):
    batches = evaluation(6, 4, bad=(2,))
  mask = np.concatenate([batch['mask'] for batch in batches])
  index = np.concatenate([batch['index'] for batch in batches])
  assert list(mask) == [True, True, False, True, True, True, False, False]
  assert list(index[~mask]) == [2, FILLER, FILLER]
  assert 'made/train#2 (2.png) does not decode' in caplog.text


def test_a_name_with_line_breaks_is_one_line(caplog):
  source = made(2, bad=(1,))
  source.records[1]['file_name'] = 'a\nb\udcff.png'
  with caplog.at_level(logging.WARNING):
    list(pipeline.eval_batches(source, CONFIG, image_size=12, batch_size=2))
  assert r'image made/train#1 (a\nb\xff.png) does not decode' in caplog.text


@pytest.mark.parametrize('threads', [0, 2])
def test_training_stops_at_an_undecodable_image_and_names_it(threads):
  config = dataclasses.replace(CONFIG, threads=threads)
  iterator = pipeline.train_batches(made(8, bad=(5,)), config, image_size=12, batch_size=8, seed=0)
  with pytest.raises(UserError, match=r'made/train#5 \(5.png\) does not decode'):
    next(iterator)


def skipping(steps: int, bad=(5, 6, 19), **kwargs) -> list[dict]:
  config = dataclasses.replace(CONFIG, undecodable='skip', threads=kwargs.pop('threads', 0))
  iterator = pipeline.train_batches(
    made(20, bad), config, image_size=12, batch_size=8, seed=0, **kwargs
  )
  return [next(iterator) for _ in range(steps)]


def test_an_undecodable_image_is_replaced_by_the_next_that_decodes():
  full = train(20, 5)
  replaced = {5: 7, 6: 7, 19: 0}
  for before, after in zip(full, skipping(5), strict=True):
    wanted = [replaced.get(label, label) for label in before['label'].tolist()]
    assert after['label'].tolist() == wanted
    kept = before['label'] == after['label']
    np.testing.assert_array_equal(after['image'][kept], before['image'][kept])


def test_skipped_images_depend_on_seed_and_position_alone():
  full = skipping(6)
  assert_same(full, skipping(6, threads=4))
  assert_same(full[4:], skipping(2, first_step=4))
  parts = [skipping(6, process=pipeline.Process(i, 4)) for i in range(4)]
  joined = [
    {name: np.concatenate([part[step][name] for part in parts]) for name in full[0]}
    for step in range(6)
  ]
  assert_same(full, joined)


def test_skipped_images_are_named_once_and_counted(caplog):
  with caplog.at_level(logging.WARNING):
    skipping(10)
  lines = [record.getMessage() for record in caplog.records]
  assert len(lines) == 3
  for index in (5, 6, 19):
    assert sum(f'training image made/train#{index} ({index}.png)' in line for line in lines) == 1
  assert [line.rsplit('; ')[-1] for line in lines] == [f'{n} so far' for n in (1, 2, 3)]


def test_a_split_without_a_decodable_image_is_an_error():
  with pytest.raises(UserError, match='none of the images of made/train decode'):
    skipping(1, bad=tuple(range(20)))


@pytest.mark.parametrize('threads', [0, 2])
def test_training_stops_at_an_example_without_label_and_names_it(threads):
  source = made(8)
  source.records[3]['label'] = -1  # pyright: ignore[reportIndexIssue]
  config = dataclasses.replace(CONFIG, threads=threads, undecodable='skip')
  iterator = pipeline.train_batches(source, config, image_size=12, batch_size=8, seed=0)
  with pytest.raises(UserError, match=r'made/train#3 \(3.png\) has no label'):
    next(iterator)


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    *(('min_crop_area', 0.0), ('max_crop_area', 0.01), ('min_crop_aspect', 2.0)),
    *(('threads', -1), ('eval_recipe', 'x'), ('randaugment_layers', 17)),
    *(('randaugment_magnitude', -1.0), ('undecodable', 'ignore')),
  ],
)
def test_bad_fields_are_named(field, value):
  with pytest.raises(UserError, match=f'data.{field}'):
    dataclasses.replace(CONFIG, **{field: value})


class Unreadable(list):
  """Records of which one cannot be read."""

  def __getitem__(self, index):
    if index == 5:
      raise StorageError('5.png cannot be read now: Input/output error; try again')
    return super().__getitem__(index)


@pytest.mark.parametrize('threads', [0, 2])
@pytest.mark.parametrize('undecodable', ['fatal', 'skip'])
def test_an_error_of_reading_ends_training_whatever_is_done_with_bad_images(threads, undecodable):
  source = made(20)
  source = dataclasses.replace(source, records=Unreadable(source.records))
  config = dataclasses.replace(PLAIN, threads=threads, undecodable=undecodable)
  batches = pipeline.train_batches(source, config, image_size=12, batch_size=10, seed=0)
  with pytest.raises(StorageError, match=r'5.png cannot be read now'):
    list(itertools.islice(batches, 3))


@pytest.mark.parametrize('threads', [0, 2])
def test_an_error_of_reading_ends_an_evaluation_and_leaves_no_image_out(threads):
  source = made(20)
  source = dataclasses.replace(source, records=Unreadable(source.records))
  config = dataclasses.replace(PLAIN, threads=threads)
  with pytest.raises(StorageError, match=r'5.png cannot be read now'):
    list(pipeline.eval_batches(source, config, image_size=12, batch_size=10))


def test_images_above_the_limit_do_not_decode(caplog):
  source = made(3)
  large = io.BytesIO()
  Image.new('L', (1000, 1001)).save(large, 'PNG')
  source.records[1]['image'] = large.getvalue()
  config = dataclasses.replace(PLAIN, max_megapixels=1)
  (batch,) = pipeline.eval_batches(source, config, image_size=12, batch_size=3)
  assert batch['mask'].tolist() == [True, False, True]
  assert '1.png) does not decode (1000 × 1001 pixels, more than' in caplog.text
  config = dataclasses.replace(config, undecodable='fatal')
  with pytest.raises(UserError, match=r'1000 × 1001 pixels, more than .*=1;'):
    next(pipeline.train_batches(source, config, image_size=12, batch_size=3, seed=0))


def test_12_bits_in_16_are_reported_once(monkeypatch, caplog):
  monkeypatch.setattr(examples, '_dark_images', itertools.count(1))
  source = made(12)
  for index in range(12):
    levels = np.full((10, 10), 4095 if index != 3 else 65535, np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, 'PNG')
    source.records[index]['image'] = buffer.getvalue()
  list(pipeline.eval_batches(source, PLAIN, image_size=12, batch_size=4))
  next(pipeline.train_batches(source, PLAIN, image_size=12, batch_size=4, seed=0))
  first, tenth = [record.getMessage() for record in caplog.records]
  assert 'image made/train#0 (0.png) has 16 bits per level' in first
  assert 'multiply its levels so that white is 65535 (1 such so far)' in first
  assert '(10 such so far)' in tenth
