"""Names of classes and files that are no text, formulas, or escape sequences, from end to end."""

import csv
import os
import pathlib

import numpy as np
from PIL import Image

from mixer_jax.__main__ import main
from tests.helpers import train_runs

CLASSES = (b'caf\xe9', '花'.encode(), rb'$\frac{', b'=1+1', b'\x1b[31mred')
SHOWN = ('caf\\xe9', '花', r'$\frac{', '=1+1', '\\x1b[31mred')


def folder_of_classes(place: pathlib.Path, rng) -> None:
  for number, name in enumerate(CLASSES):
    folder = os.path.join(os.fsencode(place), name)
    os.makedirs(folder)
    for image in range(4):
      levels = np.full((8, 8, 3), 50 * number + rng.randrange(20), np.uint8)
      Image.fromarray(levels).save(os.path.join(folder, b'\xe8\x1b[5m%d.png' % image), 'PNG')


def test_a_run_on_such_names_ends_and_is_shown(tmp_path, rng, capfd, compiled):
  images, run, page = tmp_path / 'images', tmp_path / 'run', tmp_path / 'page.html'
  folder_of_classes(images, rng)
  data = [f'--config.data.{n}={v}' for n, v in (
    ('name', f'folder:{images}'), ('train_split', 'train[:75%]'), ('eval_split', 'train[75%:]'),
  )]  # fmt: skip
  assert train_runs.train(run, '', *data, '--config.model.num_classes=5') == 0
  assert all((run / name).is_file() for name in ('curves.png', 'predictions.png'))
  table = tmp_path / 'classes.csv'
  assert main(['evaluate', f'--checkpoint={run}', f'--per-class={table}']) == 0
  with table.open(encoding='utf-8', newline='') as file:
    names = {row['name'] for row in csv.DictReader(file)}
  assert names <= {"'=1+1" if name == '=1+1' else name for name in SHOWN}
  assert main(['report', str(run), f'--output={page}']) == 0
  assert page.read_text(encoding='utf-8')
  capfd.readouterr()
  cafe = os.fsdecode(os.path.join(os.fsencode(images), CLASSES[0]))
  assert main(['predict', f'--checkpoint={run}', cafe]) == 0
  shown = capfd.readouterr()
  assert '\\xe8\\x1b[5m0.png' in shown.out
  assert all(name in shown.out for name in SHOWN)
  assert '\x1b' not in shown.out + shown.err
