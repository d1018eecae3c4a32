"""`mixer-jax data`: prepare, check, show."""

import io
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mixer_jax.__main__ import main
from mixer_jax.data.catalog import open_source
from tests.helpers import archives, made
from tests.helpers.photos import encoded, photo

CONFIG = '--config=configs/digits.py'


@pytest.fixture
def photos(tmp_path):
  """Provide a folder of two classes: three images and one broken file."""
  for index in range(3):
    path = tmp_path / 'photos' / 'ab'[index % 2] / f'{index}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(photo(90, 120, index % 2)))
  (tmp_path / 'photos' / 'b' / 'broken.jpg').write_bytes(b'\xff\xd8 no more')
  return tmp_path / 'photos'


def test_show_draws_training_images_and_every_operation(photos, tmp_path):
  out = tmp_path / 'augment.png'
  flags = (f'--config.data.name=folder:{photos}', '--config.data.randaugment_layers=2')
  assert main(['data', 'show', CONFIG, *flags, f'--output={out}']) == 0
  with Image.open(out) as image:
    width, height = image.size
  assert 1500 < width < 1.2 * height  # three images, and sixteen operations in two columns


def test_check_names_what_does_not_decode(photos, capsys):
  assert main(['data', 'check', CONFIG, f'--config.data.name=folder:{photos}']) == 2
  out, err = capsys.readouterr()
  assert 'broken.jpg' in out
  assert '4 records, 1 of them cannot be used; 2 classes of 2 to 2 images' in out
  assert '1 records cannot be used: training stops at an image that does not decode' in err


def test_check_prints_a_fault_of_many_records_once(tmp_path, capsys):
  image = encoded(np.zeros((8, 8, 3), np.uint8))
  records = [{'image': io.BytesIO(image), 'label': 0, 'file_name': f'{i}'} for i in range(60)]
  made.prepare_splits(
    'imagenet2012', {'train': records}, tmp_path, file_format='array_record', shards=3
  )
  (path,) = tmp_path.rglob('*-00001-of-00003')
  path.unlink()
  capsys.readouterr()
  flags = ('--config.data.eval_split=train', f'--config.data.data_dir={tmp_path}')
  assert main(['data', 'check', CONFIG, '--config.data.name=imagenet2012', *flags]) == 2
  first, second = capsys.readouterr().out.splitlines()
  assert first.startswith(f'data set imagenet2012 in {tmp_path}/imagenet2012/5.1.0 lacks a file (')
  assert first.endswith('prepare the data set again (20 records)')
  assert '60 records, 20 of them cannot be used' in second


def test_check_reads_both_splits(digits_dir, capsys):
  assert main(['data', 'check', CONFIG, f'--config.data.data_dir={digits_dir}']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split(':')[0] for line in lines] == ['digits/train', 'digits/test']
  assert '1,437 records, 0 of them' in lines[0]


def test_prepare_writes_what_can_be_read(tmp_path, monkeypatch):
  assert main(['data', 'prepare', 'digits', f'--data-dir={tmp_path}']) == 0
  monkeypatch.setattr(
    'mixer_jax.data.tfds_builders.prepare', lambda *_, **__: 'it was prepared before'
  )
  assert len(open_source('digits', 'train', str(tmp_path))) == 1437


def test_prepare_names_what_the_user_must_download(tmp_path, capfd):
  assert main(['data', 'prepare', 'imagenet2012', f'--data-dir={tmp_path}']) == 2
  last = capfd.readouterr().err.splitlines()[-1]
  assert last.startswith('mixer-jax: data set imagenet2012 was not prepared (Manual directory')
  assert 'ILSVRC2012_img_train.tar' in last


def test_a_task_s_data_set_is_prepared_checked_and_shown(tmp_path, capfd):
  assert main(['data', 'prepare', 'avg5/imagenet', f'--data-dir={tmp_path}']) == 2
  last = capfd.readouterr().err.splitlines()[-1]
  assert last.startswith('mixer-jax: data set imagenet2012 was not prepared (Manual directory')
  splits = {'train': 810, 'validation': 200, 'test': 12}
  records = {name: [made.kitti_record(i) for i in range(count)] for name, count in splits.items()}
  made.prepare_splits('kitti', records, tmp_path, file_format='array_record')
  config = '--config=configs/finetune.py:B/16,vtab/kitti_distance'
  where = f'--config.data.data_dir={tmp_path}'
  assert main(['data', 'check', config, where]) == 0
  lines = capfd.readouterr().out.splitlines()
  assert lines[-2].startswith('vtab/kitti_distance/train800val200: 1,000 records, 0 of them')
  assert lines[-1].startswith('vtab/kitti_distance/test: 12 records, 0 of them')
  assert main(['data', 'show', config, where, f'--output={tmp_path / "seen.png"}']) == 0
  assert (tmp_path / 'seen.png').stat().st_size


def test_prepare_names_the_folder_for_imagenet21k(tmp_path, capfd):
  assert main(['data', 'prepare', 'imagenet21k', f'--data-dir={tmp_path}']) == 2
  last = capfd.readouterr().err.splitlines()[-1]
  assert f'{tmp_path}/downloads/manual' in last
  assert 'put fall11_whole.tar of image-net.org there' in last


def test_a_full_disk_leaves_existing_files_unchanged(digits_dir, tmp_path):
  shutil.copytree(digits_dir / 'digits', tmp_path / 'digits')
  archives.put_archive(tmp_path)
  command = ['data', 'prepare', 'imagenet21k', '--classes=4', f'--data-dir={tmp_path}']
  # No file may grow beyond 8 KiB; the data set's would.
  limited = ['bash', '-c', 'ulimit -f 8; exec "$@"', 'bash', sys.executable, '-m', 'mixer_jax']
  done = subprocess.run([*limited, *command], capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert 'data set imagenet21k was not prepared' in done.stderr.splitlines()[-1]
  assert 'too large' in done.stderr.splitlines()[-1]
  assert not list((tmp_path / 'imagenet21k').iterdir())
  assert len(open_source('digits', 'test', str(tmp_path))) == 360
  assert main(command) == 0
  assert len(open_source('imagenet21k', 'train', str(tmp_path))) == 4 * archives.EACH


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    ([], 'required: task'),
    (['fly'], 'invalid choice'),
    (['prepare', 'nosuchset'], "no TFDS data set 'nosuchset'"),
    (['prepare', 'vtab/clevr_cont'], 'did you mean vtab/clevr_count'),
    (['prepare', 'digits', '--data-dir='], '--data-dir is empty'),
    (['prepare', 'digits', '--data-dir=gs://bucket/x'], 'mount the bucket with gcsfuse, or copy'),
    (['prepare', 'digits', '--classes=10'], 'classes can be set for imagenet21k only'),
    (['show', CONFIG, '--output=/nowhere/x.png'], 'no folder for --output'),
    (['show', CONFIG, '--config.data.name='], 'no data set: set --config.data.name'),
    (['prepare', 'jft300m'], 'never public: name a replacement'),
    (['check', '--config=configs/common.py'], 'no data set: set --config.data.name'),
  ],
)
def test_bad_input_is_one_line(argv, message, capsys):
  assert main(['data', *argv]) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert message in error


def test_no_image_that_decodes_is_an_error(tmp_path, capsys):
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a' / 'x.jpg').write_bytes(b'no image')
  flags = (f'--config.data.name=folder:{tmp_path}', f'--output={tmp_path / "o.png"}')
  assert main(['data', 'show', CONFIG, *flags]) == 2
  assert 'decodes' in capsys.readouterr().err
  assert not (tmp_path / 'o.png').exists()
