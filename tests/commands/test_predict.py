"""`mixer-jax predict`: names, files, folders and patterns."""

import json

import numpy as np
import pytest
from PIL import Image

import mixer_jax
from mixer_jax.__main__ import main
from mixer_jax.data import recipes
from mixer_jax.data.catalog import open_source
from mixer_jax.storage import RETRY_SETTING
from tests.docs.file_keys import assert_documented
from tests.helpers import reference
from tests.helpers.photos import encoded, photo

TINY = f'{reference.DATA}/mixer_tiny.npz'


def test_it_names_the_classes_of_each_image(trained, digits_dir, tmp_path, capsys):
  record = open_source('digits', 'test', str(digits_dir))[3]
  path = tmp_path / 'digit.png'
  path.write_bytes(record['image'])
  capsys.readouterr()
  assert main(['predict', f'--checkpoint={trained}', str(path)]) == 0
  captured = capsys.readouterr()
  lines = captured.out.splitlines()
  assert lines[0] == str(path)
  assert 'vit-jax: ' in captured.err  # the recipe
  shares = [float(line.split('%')[0]) for line in lines[1:6]]
  names = [line.split('%')[1].strip() for line in lines[1:6]]
  config, params = mixer_jax.load(trained)
  image = recipes.eval_image(record['image'], 16, 'vit-jax', 1.0)
  logits = reference.forward(config, params, image[None] / 127.5 - 1)[0]
  wanted = np.exp(logits) / np.exp(logits).sum()
  assert names == [str(i) for i in np.argsort(-wanted)[:5]]
  np.testing.assert_allclose(shares, 100 * np.sort(wanted)[::-1][:5], atol=0.006)


def test_json_lines_of_a_folder_and_a_pattern(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'a').mkdir()
  for i in range(70):  # more than a batch
    Image.new('RGB', (40, 40), (i, 2 * i, 255 - i)).save(tmp_path / 'a' / f'{i:02}.png')
  (tmp_path / 'b.jpg').write_bytes(encoded(photo(30, 50)))
  capsys.readouterr()
  assert main(['predict', f'--checkpoint={TINY}', '--json', '--top=9', 'a', '*.jpg']) == 0
  rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  for row in rows:
    assert_documented('predict --json', row)
  assert [row['image'] for row in rows] == [*(f'a/{i:02}.png' for i in range(70)), 'b.jpg']
  config, params = mixer_jax.load(TINY)
  for row in rows[::23] + rows[-1:]:
    data = (tmp_path / row['image']).read_bytes()
    image = recipes.eval_image(data, 32, 'resmall-crop', 0.875)
    logits = reference.forward(config, params, image[None] / 127.5 - 1)[0]
    shares = np.exp(logits) / np.exp(logits).sum()
    assert [each['class'] for each in row['top']] == np.argsort(-shares).tolist()  # all seven
    found = [each['probability'] for each in row['top']]
    np.testing.assert_allclose(found, -np.sort(-shares), rtol=1e-4)
    assert row['top'][0]['name'] == f'class {row["top"][0]["class"]}'


def test_a_recipe_may_be_named(tmp_path, capsys):
  (tmp_path / 'b.jpg').write_bytes(encoded(photo(90, 50)))
  shares = set()
  for recipe in recipes.RECIPES:
    capsys.readouterr()
    argv = ['predict', f'--checkpoint={TINY}', f'--recipe={recipe}', '--json', f'{tmp_path}/b.jpg']
    assert main(argv) == 0
    shares.add(json.loads(capsys.readouterr().out)['top'][0]['probability'])
  assert len(shares) == len(recipes.RECIPES)


@pytest.mark.parametrize('kind', ['txt', 'json'])
def test_names_come_from_a_file(tmp_path, capsys, kind):
  names = [f'thing {i}' for i in range(7)]
  text = json.dumps(names) if kind == 'json' else '\n'.join(names) + '\n'
  (tmp_path / f'labels.{kind}').write_text(text)
  (tmp_path / 'b.jpg').write_bytes(encoded(photo(30, 50)))
  capsys.readouterr()
  labels = f'--labels={tmp_path}/labels.{kind}'
  assert main(['predict', f'--checkpoint={TINY}', labels, f'{tmp_path}/b.jpg']) == 0
  assert '%  thing ' in capsys.readouterr().out


def test_it_continues_after_an_image_that_does_not_decode(trained, tmp_path, capsys):
  (tmp_path / 'bad.png').write_bytes(b'no image')
  Image.new('L', (30, 20)).save(tmp_path / 'good.png')
  argv = [str(tmp_path / name) for name in ('bad.png', 'good.png')]
  for more, line in (([], 0), (['--json'], 1)):
    capsys.readouterr()
    assert main(['predict', f'--checkpoint={trained}', *more, *argv]) == 2
    captured = capsys.readouterr()
    assert argv[1] in captured.out.splitlines()[line]
    assert f'1 of 2 images did not decode: {argv[0]}' in captured.err
  assert json.loads(captured.out.splitlines()[0]) == {'image': argv[0], 'error': 'does not decode'}


def test_a_flag_without_a_value_is_named_if_it_gets_one(capsys):
  assert main(['predict', f'--checkpoint={TINY}', '--json=out.json', 'a.jpg']) == 2
  assert "argument --json: takes no value, not 'out.json'" in capsys.readouterr().err


def test_it_continues_after_an_image_that_cannot_be_read(trained, tmp_path, capsys, monkeypatch):
  monkeypatch.setenv(RETRY_SETTING, '0')
  (tmp_path / 'bad.png').write_bytes(b'no image')
  Image.new('L', (30, 20)).save(tmp_path / 'good.png')
  (tmp_path / 'unread.png').symlink_to('/proc/self/mem')  # reading its begin is EIO
  argv = ['predict', f'--checkpoint={trained}', '--json', str(tmp_path)]
  assert main(argv) == 74
  captured = capsys.readouterr()
  answers = [json.loads(line) for line in captured.out.splitlines()]
  assert [answer.get('error') for answer in answers] == ['does not decode', None, 'cannot be read']
  assert captured.err.splitlines()[-1] == (
    f'mixer-jax: 1 of 3 images could not be read: {tmp_path}/unread.png; '
    f'1 of 3 images did not decode: {tmp_path}/bad.png'
  )


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    ([f'--checkpoint={TINY}'], 'the following arguments are required: IMAGE'),
    (['--checkpoint=none.npz', 'IMAGE'], 'no weights file none.npz'),
    ([f'--checkpoint={TINY}', 'none.png', 'x*y'], 'no file none.png; nothing matches x*y'),
    ([f'--checkpoint={TINY}', '--top=0', 'IMAGE'], 'top must be a whole number, at least 1'),
    ([f'--checkpoint={TINY}', '--labels=IMAGE', 'IMAGE'], 'is not text with one name per line'),
    (
      [f'--checkpoint={TINY}', '--labels=none', 'IMAGE'],
      'labels=none: no such file, and no',
    ),
    ([f'--checkpoint={TINY}', '--labels=digits', 'IMAGE'], 'has 10 names, the model 7 classes'),
    ([f'--checkpoint={TINY}', '--recipe=x', 'IMAGE'], "invalid choice: 'x'"),
  ],
)
def test_bad_input_is_one_line(tmp_path, argv, message, capsys):
  (tmp_path / 'b.jpg').write_bytes(encoded(photo(30, 50)))
  argv = [part.replace('IMAGE', f'{tmp_path}/b.jpg') for part in argv]
  assert main(['predict', *argv]) == 2
  captured = capsys.readouterr()
  assert captured.err.count('\n') == 1
  assert message in captured.err
  assert not captured.out
