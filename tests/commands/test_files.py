"""`mixer-jax convert`, `inspect` and `models`."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import mixer_jax
from mixer_jax.__main__ import COMMANDS, main
from mixer_jax.checkpoints import published
from mixer_jax.models.parameters import flatten
from tests.helpers import reference

FILES = ('mixer_tiny.npz', 'mixer_tiny.legacy.npz', 'mixer_tiny.timm.safetensors')


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('target', ['out.npz', 'out.safetensors'])
def test_any_layout_is_converted_to_any_that_can_be_written(tmp_path, name, target, capsys):
  assert main(['convert', f'{reference.DATA}/{name}', f'{tmp_path}/{target}']) == 0
  config, params = mixer_jax.load(tmp_path / target)
  assert config == reference.golden()[0]
  wanted = flatten(reference.golden()[1])
  for key, array in flatten(params).items():
    np.testing.assert_array_equal(array, wanted[key])
  errors = capsys.readouterr().err
  assert 'does not hold' not in errors
  assert ('timm computes the exact GELU' in errors) == target.endswith('safetensors')


@pytest.mark.parametrize(
  ('name', 'more', 'warned'),
  [
    ('vit_token.npz', (), False),
    ('vit_gap.linen.npz', (), False),
    ('vit_token.timm.safetensors', ('--num-heads=3',), False),
    ('vit_representation.npz', ('--num-classes=3',), False),
    ('vit_token.npz', ('--image-size=32', '--blocks=0,2'), False),
    ('bit_tiny.npz', ('--image-size=32',), True),
    ('bit_tiny.big_vision.npz', (), False),
  ],
)
@pytest.mark.parametrize('target', ['out.npz', 'out.safetensors'])
def test_files_of_each_family_are_converted(tmp_path, name, more, warned, target, capsys):
  source = f'{reference.DATA}/{name}'
  assert main(['convert', source, f'{tmp_path}/{target}', *more]) == 0
  errors = capsys.readouterr().err
  is_lost = warned and target == 'out.npz'  # no array of a ResNet tells its image size
  assert ('does not hold image_size: load(…, image_size=32)' in errors) == is_lost
  assert main(['inspect', f'{tmp_path}/{target}', '--json']) == 0
  found = json.loads(capsys.readouterr().out)
  assert main(['convert', f'{tmp_path}/{target}', f'{tmp_path}/again.npz']) == 0
  again = flatten(mixer_jax.load(tmp_path / 'again.npz')[1])
  for key, array in flatten(mixer_jax.load(tmp_path / target)[1]).items():
    np.testing.assert_array_equal(again[key], array)
  if '--image-size=32' in more and not is_lost:
    assert found['image_size'] == 32
  if '--num-classes=3' in more:
    assert (found['num_classes'], found['representation_size']) == (3, 0)


def test_a_head_of_zeros_predicts_nothing(tmp_path, capsys):
  target, image = f'{tmp_path}/w.npz', f'{tmp_path}/a.png'
  source = f'{reference.DATA}/vit_representation.npz'
  assert main(['convert', source, target, '--num-classes=3']) == 0
  Image.new('RGB', (16, 16)).save(image)
  capsys.readouterr()
  for argv in (
    ['predict', f'--checkpoint={target}', image],
    ['evaluate', f'--checkpoint={target}', f'--config=configs/evaluate.py:folder:{tmp_path}/in'],
  ):
    folder = tmp_path / 'in' / 'class'
    folder.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (16, 16)).save(folder / 'a.png')
    assert main(argv) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f'{target}: its head is all zeros, so every image has the same logits' in error
  assert mixer_jax.embed(target, image).features.shape == (1, 16)


def test_heads_are_named_by_a_flag(capsys):
  path = f'{reference.DATA}/vit_token.timm.safetensors'
  assert main(['inspect', path]) == 2
  assert '--num-heads=…' in capsys.readouterr().err
  assert main(['inspect', path, '--num-heads=7']) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert 'model.hidden_dim 24 cannot be shared by model.num_heads=7: take 6 or 8 heads' in error
  assert main(['inspect', path, '--num-heads=3', '--json']) == 0
  assert json.loads(capsys.readouterr().out)['num_heads'] == 3


def test_a_training_state_becomes_a_file_that_predicts_the_same(trained, tmp_path):
  assert main(['convert', str(trained), f'{tmp_path}/w.npz']) == 0
  wanted, found = mixer_jax.load(trained), mixer_jax.load(tmp_path / 'w.npz')
  images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
  logits = mixer_jax.apply(*wanted, images)
  np.testing.assert_array_equal(mixer_jax.apply(*found, images), logits)


def test_missing_facts_of_a_file_are_reported(trained, tmp_path, capsys):
  assert main(['convert', str(trained), f'{tmp_path}/w.npz']) == 0
  assert 'nor the recipe (--recipe=vit-jax)' in capsys.readouterr().err
  assert main(['inspect', f'{tmp_path}/w.npz']) == 0
  assert 'gelu              tanh (assumed: not in a weights file)' in capsys.readouterr().out
  assert main(['inspect', str(trained), '--json']) == 0
  assert json.loads(capsys.readouterr().out)['assumed'] == []


def test_names_from_a_file_do_not_reach_the_screen_as_they_are(tmp_path, capsys):
  arrays = {'é\n\x1b[31mred': np.zeros(3)}
  np.savez(tmp_path / 'w.npz', **arrays)  # pyright: ignore[reportArgumentType]
  assert main(['inspect', f'{tmp_path}/w.npz']) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert 'é\\n\\x1b[31mred' in error


def test_conversion_can_grow_and_replace_the_head(tmp_path):
  source, target = f'{reference.DATA}/mixer_tiny.npz', f'{tmp_path}/w.npz'
  assert main(['convert', source, target, '--image-size=64', '--num-classes=3']) == 0
  config, _ = mixer_jax.load(target)
  assert (config.image_size, config.num_classes) == (64, 3)


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (['SRC'], 'the following arguments are required: DST'),
    (['none', 'w.npz'], 'no checkpoint none'),
    (['SRC', 'w.pth'], 'w.pth: weights are written as *.npz (modern), *.safetensors (timm)'),
    (['SRC', 'w.npz', '--layout=timm'], 'w.npz: weights are written as'),
    (['SRC', 'w.npz', '--layout=legacy'], "invalid choice: 'legacy'"),
    (['SRC', 'none/w.npz'], 'no folder none: make it first'),
    (['SRC', 'there.npz'], 'there.npz exists already: remove it'),
    (['SRC', 'w.npz', '--image-size=33'], 'image size 33 is not an integer multiple'),
    (['SRC', 'w.npz', '--num-classes=0'], 'num_classes must be a positive whole number'),
  ],
)
def test_bad_input_of_convert_is_one_line_and_leaves_nothing(
  tmp_path, monkeypatch, argv, message, capsys
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'there.npz').write_text('')
  argv = [part.replace('SRC', f'{reference.DATA}/mixer_tiny.npz') for part in argv]
  assert main(['convert', *argv]) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert message in error
  assert [path.name for path in tmp_path.iterdir()] == ['there.npz']


@pytest.mark.parametrize('name', FILES)
def test_inspect_describes_a_file(name, capsys):
  assert main(['inspect', f'{reference.DATA}/{name}', '--json']) == 0
  figures = json.loads(capsys.readouterr().out)
  layout = {'npz': 'modern', 'legacy.npz': 'legacy', 'timm.safetensors': 'timm'}
  assert figures['layout'] == layout[name.removeprefix('mixer_tiny.')]
  arrays = flatten(reference.golden()[1])
  assert figures['parameters'] == sum(array.size for array in arrays.values())
  assert (figures['bytes'], figures['dtype']) == (4 * figures['parameters'], 'float32')
  assert (figures['image_size'], figures['num_classes'], figures['num_blocks']) == (32, 7, 3)
  assert figures['variant'] == 'Mixer of 3 blocks, width 24'
  assert figures['largest']['stem/kernel'] == [8, 8, 3, 24]
  assert next(iter(figures['largest'])) == 'stem/kernel'


def test_inspect_describes_a_run_and_a_published_file(trained, tmp_path, monkeypatch, capsys):
  assert main(['inspect', str(trained)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert 'layout            training state' in lines
  assert 'step              6' in lines
  config = reference.golden()[0]
  entry = published.Released(
    'x/M', 'https://mixers.invalid/M.npz', config, None, top1=12.5, note='n'
  )
  monkeypatch.setitem(published.released, 'x/M', entry)
  monkeypatch.setenv('MIXER_JAX_MIRROR', str(tmp_path))
  (tmp_path / 'x').mkdir()
  shutil.copy(reference.DATA / 'mixer_tiny.npz', tmp_path / 'x' / 'M.npz')
  assert main(['inspect', 'x/M', '--json']) == 0
  figures = json.loads(capsys.readouterr().out)
  assert figures['published'] == {
    'url': 'https://mixers.invalid/M.npz',
    'top1': 12.5,
    'recipe': 'resmall-crop',
    'note': 'n',
  }


def test_models_prints_table_1_and_the_published_files(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('MIXER_JAX_CACHE', str(tmp_path))
  (tmp_path / 'sam').mkdir()
  (tmp_path / 'sam' / 'Mixer-B_32.npz').write_text('')
  assert main(['models']) == 0
  rows = [line.split() for line in capsys.readouterr().out.splitlines()]
  (row,) = [row for row in rows if row[:1] == ['L/16']]
  wanted = ['24', '16', '196', '1024', '512', '4096', '208,196,168', '207,171,168', '89.10']
  assert row[1:] == wanted
  files = {row[0]: row for row in rows if row and row[0] in published.released}
  assert files.keys() == published.released.keys()
  assert files['imagenet1k/Mixer-B_16'][1:9] == [
    'B/16', '224', '1,000', '228.47', '76.44', '82.36', 'resmall-crop', 'no',
  ]  # fmt: skip
  assert files['sam/Mixer-B_32'][8] == 'yes'


@pytest.mark.parametrize('command', COMMANDS)
def test_each_command_explains_its_flags(command):
  argv = [sys.executable, '-m', 'mixer_jax', command, '--help']
  done = subprocess.run(argv, capture_output=True, text=True, check=False)
  assert (done.returncode, done.stderr) == (0, '')
  assert done.stdout.startswith(f'usage: mixer-jax {command}')


def test_help_lists_the_commands(capsys):
  assert main(['--help']) == 0
  text = capsys.readouterr().out
  commands = ('train', 'evaluate', 'predict', 'convert', 'inspect', 'shardings', 'models')
  assert all(f'  {name} ' in text for name in commands)
  assert main(['--version']) == 0
  assert capsys.readouterr().out == f'mixer_jax {mixer_jax.__version__}\n'
  assert main([]) == 2
  assert main(['fly']) == 2
  error = capsys.readouterr().err
  assert "no command 'fly': there are train, evaluate, predict, " in error
  assert main(['models', '--all']) == 2
  assert 'unknown argument --all' in capsys.readouterr().err
