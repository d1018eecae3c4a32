"""Evaluation from Python, without a command line: the same figures, typed."""

import dataclasses
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

import mixer_jax
from mixer_jax.__main__ import main
from mixer_jax.analysis.hsic import Method
from mixer_jax.data import pipeline, recipes
from mixer_jax.errors import UserError
from mixer_jax.evaluation.fewshot import PAPER, FewShotConfig
from mixer_jax.evaluation.probe import ProbeConfig
from mixer_jax.models import as_input
from mixer_jax.parallel import mesh as meshes
from mixer_jax.runlog import terminal
from mixer_jax.runs import evaluation
from mixer_jax.runs.evaluation import evaluate, few_shot, linear_probe
from mixer_jax.runs.loaded_model import LoadedModel, load_for_evaluation
from mixer_jax.runs.predictions import embed, predict
from mixer_jax.runs.similarity import compare, identify
from mixer_jax.runs.weight_pictures import learned_weights
from tests.helpers import reference

TINY = reference.DATA / 'mixer_tiny.npz'


@pytest.fixture(scope='module')
def loaded(trained) -> LoadedModel:
  return load_for_evaluation(trained)


def test_a_report_has_the_figures_of_the_command(loaded, trained, capsys):
  report = evaluate(loaded)
  assert main(['evaluate', f'--checkpoint={trained}', '--json=-']) == 0
  figures = json.loads(capsys.readouterr().out)
  expected = report.to_json()
  assert figures.keys() == expected.keys()
  for name in figures.keys() - {'images_per_second'}:
    assert figures[name] == expected[name]
  assert report.result.predictions.shape == (360,)
  assert report.summary().startswith(f'top-1 {report.result.top1:.2f} %')
  assert sum(row.images for row in report.per_class()) == 360


def test_embeddings_of_the_split_are_the_features_of_the_model(loaded):
  names, features = embed(loaded)
  assert features.shape == (360, loaded.model.hidden_dim)  # pyright: ignore
  assert (names[0], names[-1]) == ('digits/test#0', 'digits/test#359')
  batch = next(loaded.batches())
  expected = mixer_jax.features(
    loaded.model, loaded.checkpoint.params, as_input(loaded.model, batch['image'])
  )
  np.testing.assert_allclose(features[:64], expected['pre_logits'], atol=1e-5)
  _, first = embed(loaded, layer='block_0')
  np.testing.assert_allclose(first[:64], np.mean(expected['block_0'], axis=1), atol=1e-5)
  with pytest.raises(UserError, match="no layer 'block_7'"):
    embed(loaded, layer='block_7')


def test_files_are_embedded_and_classified_from_a_path(tmp_path):
  rng = np.random.default_rng(0)
  for i in range(3):
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / f'{i}.png')
  (tmp_path / '3.png').write_bytes(b'no image')
  names, features = embed(TINY, [tmp_path])
  assert names == [str(tmp_path / f'{i}.png') for i in range(3)]
  config, params = mixer_jax.load(TINY)
  images = np.stack(
    [recipes.eval_image((tmp_path / n).read_bytes(), 32, 'resmall-crop', 0.875) for n in names]
  )
  expected = mixer_jax.features(config, params, np.float32(images) / 127.5 - 1)
  np.testing.assert_allclose(features, expected['pre_logits'], atol=1e-4)

  things = [f'thing {i}' for i in range(7)]
  found = list(predict(TINY, [tmp_path], top=2, labels=things))
  assert [prediction.image for prediction in found[:3]] == names
  assert found[3].top is None
  best = np.argsort(-np.asarray(expected['logits']), axis=1)[:, :2]
  assert [
    [each.label for each in prediction.top or ()] for prediction in found[:3]
  ] == best.tolist()
  assert found[0].top
  assert found[0].top[0].name == f'thing {best[0, 0]}'
  with pytest.raises(UserError, match='labels has 2 names, the model 7 classes'):
    predict(TINY, [tmp_path], labels=['a', 'b'])
  with pytest.raises(UserError, match='give images, or a model from load_for_evaluation'):
    embed(TINY)


def test_a_loaded_model_predicts_by_its_own_recipe(loaded, tmp_path):
  (tmp_path / 'a.png').write_bytes(loaded.setup.source[5]['image'])
  (prediction,) = predict(loaded, [tmp_path / 'a.png'])
  report = evaluate(loaded)
  assert prediction.top
  assert prediction.top[0].label == report.result.predictions[5]
  assert prediction.top[0].probability == pytest.approx(report.result.confidences[5], abs=1e-5)


def test_few_shot_and_probes_are_typed(loaded, monkeypatch):
  shown = []
  monkeypatch.setattr(terminal, 'live', shown.append)
  few = few_shot(loaded, PAPER.__class__((1, 5), 2, PAPER.l2, PAPER.constant, 0))
  assert list(few.accuracies) == [1, 5]
  assert few.to_json()['5-shot'] == few.accuracies[5].mean
  assert few.train_data == 'digits/train'
  assert few.eval_recipe == 'vit-jax'  # of configs/digits.py; the authors' is resize-crop
  probes = linear_probe(loaded, ProbeConfig(1e-3, 20))
  assert [layer.layer for layer in probes.layers][-1] == 'pre_logits'
  assert [line for line in shown if line.startswith('0 of ')] == [
    '0 of 99 images of digits/train, 99 chosen',  # two choices that have one in common
    '0 of 360 images of digits/test',
    '0 of 1,437 images of digits/train',
    '0 of 360 images of digits/test',
  ]


@pytest.mark.parametrize(
  ('split', 'used'),
  [('train', 'train[:65000]'), ('train[:99%]', 'train[:65000]'), ('train[:100%]', 'train[:100%]')],
)
def test_few_images_of_imagenet_are_the_authors_unless_the_config_says_otherwise(
  loaded, monkeypatch, split, used
):
  asked = []

  def opened(setup):
    asked.append((setup.data.train_split, setup.data.eval_recipe))
    raise UserError('not here')

  monkeypatch.setattr(evaluation, '_opened', opened)
  data = dataclasses.replace(loaded.setup.data, name='imagenet2012', train_split=split)
  config = loaded.config.with_fields({'fewshot.recipe': 'resize-crop'})
  setup = dataclasses.replace(loaded.setup, data=data)
  imagenet = dataclasses.replace(loaded, setup=setup, config=config)
  for recipe in (None, 'vit-jax'):
    with pytest.raises(UserError, match='not here'):
      few_shot(imagenet, PAPER, recipe)
  assert asked == [(used, 'resize-crop'), (used, 'vit-jax')]


def test_a_model_is_compared_and_identified_with_itself(loaded):
  found = compare(loaded, layers=['block_*'], method=Method('rbf', 0.5), features='tokens')
  np.testing.assert_allclose(np.diagonal(found.cka), 1, atol=1e-6)
  assert found.method == 'kernel rbf, bandwidth 0.5, estimator unbiased'
  with pytest.raises(UserError, match='no layer matches'):
    compare(loaded, layers=['nothing'])
  both = identify(loaded, loaded)
  assert both.forward.accuracy == both.backward.accuracy == 100
  np.testing.assert_allclose(
    both.similarity.cka, compare(loaded, layers=['block_*']).cka, atol=1e-6
  )


def test_only_a_model_that_mixes_tokens_by_weights_has_pictures_of_it(tmp_path):
  with tarfile.open(reference.DATA / 'run_0.1.0_resnet.tar.gz') as files:
    files.extractall(tmp_path, filter='data')
  with pytest.raises(UserError, match='ResNet mixes no tokens'):
    learned_weights(f'{tmp_path}/run', blocks=[0])
  assert set(learned_weights(f'{tmp_path}/run').pictures) == {'stem'}
  with pytest.raises(UserError, match='no blocks: name at least one'):
    learned_weights(str(TINY), blocks=[])


def test_learned_weights_of_a_file():
  found = learned_weights(str(TINY), blocks=[1], units=4)
  assert set(found.arrays) == {
    *('block_1/order', 'block_1/frequency', 'block_1/pair_cosine', 'stem/order', 'stem/frequency'),
  }
  assert found.titles[0].startswith('block 1: 4 of 12 units')
  assert list(found.pictures) == ['tokens', 'stem']
  assert all(png.startswith(b'\x89PNG') for png in found.pictures.values())


def test_no_evaluation_pads_a_small_split_and_its_figures_are_those_of_the_padded_one(
  trained, monkeypatch
):
  splits = {'data.eval_split': 'test[:59]', 'data.train_split': 'train[:143]'}
  loaded = load_for_evaluation(trained, overrides={'eval_batch_size': 256, **splits})
  few, probed = FewShotConfig((1,), 1, 1.0, 1.0, 0), ProbeConfig(l2=1.0, iterations=1)
  sizes, eval_batches = [], pipeline.eval_batches

  def spied(source, *args, batch_size, **more):
    sizes.append((len(source), batch_size))
    return eval_batches(source, *args, batch_size=batch_size, **more)

  monkeypatch.setattr(pipeline, 'eval_batches', spied)
  fitted = evaluate(loaded).result
  compare(loaded, layers=['stem'])
  assert sizes == [(59, 64)] * 2
  with monkeypatch.context() as patch:  # what reads their first split reads the second one

    def read_no_further(source, *args, batch_size, **more):
      sizes.append((len(source), batch_size))
      raise EOFError

    patch.setattr(pipeline, 'eval_batches', read_no_further)
    for learn in (lambda: few_shot(loaded, few), lambda: linear_probe(loaded, probed)):
      with pytest.raises(EOFError):
        learn()
  assert sizes[2:] == [(10, 16), (143, 144)]
  monkeypatch.setattr(meshes, 'batch_for', lambda mesh, examples, most: most)
  padded = evaluate(loaded).result
  assert sizes[-1] == (59, 256)
  np.testing.assert_array_equal(fitted.predictions, padded.predictions)
  assert (fitted.top1, fitted.top5) == (padded.top1, padded.top5)
  np.testing.assert_allclose(fitted.confidences, padded.confidences, rtol=1e-5)
  assert fitted.loss == pytest.approx(padded.loss, rel=1e-6)
