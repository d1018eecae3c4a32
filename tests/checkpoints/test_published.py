"""The table of published files, and downloads: once, whole, and of the right file."""

import dataclasses
import fcntl
import gzip
import logging
import pathlib
import shutil
import threading
import time

import numpy as np
import pytest

import mixer_jax
from mixer_jax import checkpoints, models
from mixer_jax.checkpoints import download, published
from mixer_jax.errors import StorageError, UserError
from tests.helpers import golden_models, reference
from tests.helpers.file_server import serving

TINY = published.Released(
  'tiny/Mixer-B_16',
  'https://mixers.invalid/tiny/Mixer-B_16.npz',
  dataclasses.replace(reference.golden()[0], gelu='erf'),
  (reference.DATA / 'mixer_tiny.npz').stat().st_size / 2**20,
)


BOMB = gzip.compress(bytes(10**7))
"""10 MB in 10 kB."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> pathlib.Path:
  """A cache of its own, and a small file in the table."""
  monkeypatch.setenv('MIXER_JAX_CACHE', str(tmp_path / 'cache'))
  monkeypatch.delenv('MIXER_JAX_MIRROR', raising=False)
  monkeypatch.setitem(published.released, TINY.name, TINY)
  return tmp_path / 'cache'


@pytest.fixture
def server(tmp_path, monkeypatch):
  """A server of the small file, set as the mirror."""
  folder = tmp_path / 'served'
  (folder / 'tiny').mkdir(parents=True)
  shutil.copy(reference.DATA / 'mixer_tiny.npz', folder / TINY.file)
  with serving(folder) as running:
    monkeypatch.setenv('MIXER_JAX_MIRROR', running.url)
    yield running


def files(folder: pathlib.Path) -> list[str]:
  found = (p for p in folder.rglob('*') if p.is_file() and not p.name.startswith('.lock-'))
  return sorted(str(path.relative_to(folder)) for path in found)


def assert_loads(name: str = TINY.name):
  config, params = mixer_jax.load(name)
  assert config == TINY.config
  np.testing.assert_array_equal(params['head']['kernel'], reference.golden()[1]['head']['kernel'])


def test_the_table_tells_what_the_paper_and_the_hubs_tell():
  table = published.released
  assert table['imagenet1k/Mixer-B_16'].top1 == 76.44
  assert table['imagenet1k/Mixer-L_16'].real == 77.08
  assert table['imagenet21k/Mixer-L_16'].config.num_classes == 21_843
  assert table['gsam/Mixer-S_8'].config == models.VARIANTS['S/8']
  assert (
    table['imagenet1k/Mixer-B_16'].url
    == 'https://storage.googleapis.com/mixer_models/imagenet1k/Mixer-B_16.npz'
  )
  miil = table['timm/mixer_b16_224.miil_in21k_ft_in1k']
  assert (miil.config.gelu, miil.config.input_range, miil.recipe) == (
    'erf',
    '[0, 1]',
    'timm-bilinear',
  )
  assert table['timm/mixer_b16_224.miil_in21k'].config.num_classes == 11_221
  goog = table['timm/mixer_l16_224.goog_in21k_ft_in1k']
  assert (goog.config, goog.file) == (
    models.VARIANTS['L/16'],
    'timm/mixer_l16_224.goog_in21k_ft_in1k.safetensors',
  )
  assert 'is imagenet1k/Mixer-L_16' in goog.note


@pytest.mark.parametrize(
  'entry',
  [entry for entry in published.released.values() if entry.mebibytes is not None],
  ids=lambda entry: entry.name,
)
def test_published_sizes_are_those_of_the_arrays(entry):
  copies = 3 if 'optimizer' in entry.note else 1  # Adam's moments are as large as the params
  arrays = copies * 4 * models.num_params(entry.config) / 2**20
  # A member of a zip costs some three hundred bytes beside its array.
  members = copies * len(models.param_shapes(entry.config))
  assert 0 < entry.mebibytes - arrays < 350 * members / 2**20 + 0.02


def test_the_table_tells_what_the_authors_of_vit_and_bit_tell():
  table = published.released
  old = table['imagenet21k/ViT-B_16']
  assert models.num_params(old.config) == 103_186_515  # with its representation layer
  assert (old.config.representation_size, old.recipe, old.crop_fraction) == (768, 'vit-jax', 1.0)
  assert 'head is zeros' in old.note
  assert table['gsam/ViT-S_16'].config.pooling == 'gap'
  assert table['imagenet21k+imagenet2012/ViT-L_16'].top1 == 85.05
  timm = table['timm/vit_base_patch16_224.augreg_in21k_ft_in1k']
  assert (timm.config.gelu, timm.recipe, timm.crop_fraction) == ('erf', 'timm', 0.9)
  assert table['timm/vit_base_patch16_384.augreg_in21k_ft_in1k'].crop_fraction == 1.0
  bit = table['timm/resnetv2_152x4_bit.goog_in21k_ft_in1k']
  assert (bit.config.image_size, bit.top1, bit.recipe) == (480, 84.936, 'timm-bilinear')
  assert models.variant_of(bit.config) == 'BiT-R152x4'
  assert table['bit/BiT-M-R50x1'].config.num_classes == 21_843
  assert table['bit/BiT-M-R50x1'].classes is None


AUGREG = 'R-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.1-sd_0.1'


@pytest.mark.parametrize(
  ('end', 'classes', 'size'),
  [
    ('', 21_843, 224),
    ('--cifar100-steps_10k-lr_0.003-res_384', 100, 384),
    ('--oxford_iiit_pet-steps_0k-lr_0.003-res_224', 37, 224),
    ('--resisc45-steps_2k-lr_0.01-res_224', 45, 224),
    ('--imagenet2012-steps_20k-lr_0.03-res_384', 1000, 384),
  ],
)
def test_any_file_of_augreg_is_known_by_its_name(end, classes, size):
  name = AUGREG.replace('R', 'B_32', 1) + end
  entry = published.find(f'augreg/{name}')
  assert entry is not None
  assert entry.file == f'augreg/{name}.npz'
  assert entry == published.find(name)
  assert entry == published.find(f'gs://vit_models/augreg/{name}.npz')
  assert (entry.config.num_classes, entry.config.image_size) == (classes, size)
  assert models.base_variant(entry.config) == 'ViT-B/32'
  assert entry.training['augmentation'] == 'light1'
  assert entry.training['dropout'] == 0.1
  if 'steps_0k' in end:
    assert (entry.training['fine_tuned_on'], entry.training['steps']) == ('oxford_iiit_pet', 500)


@pytest.mark.parametrize(
  'name',
  [
    'augreg/' + AUGREG.replace('R', 'R50_L_32', 1),
    AUGREG.replace('R', 'R_Ti_16', 1) + '--cifar100-steps_10k-lr_0.003-res_384.npz',
    'imagenet21k/R50+ViT-B_16',
    'timm/vit_small_r26_s32_384.augreg_in21k_ft_in1k',
  ],
)
def test_hybrids_are_refused_by_name(name):
  with pytest.raises(UserError, match='is a hybrid of ResNet and ViT, which is no family here'):
    mixer_jax.load(name)


@pytest.mark.parametrize('name', ['B_32-i21k', 'B_9' + AUGREG[1:], 'B_32' + AUGREG[1:] + '--mnist'])
def test_other_names_are_none_of_augreg(name):
  assert published.find(name) is None


def test_no_two_files_share_a_place():
  places = [entry.file for entry in published.released.values()]
  assert len(set(places)) == len(places)


@pytest.mark.parametrize(
  ('text', 'name'),
  [
    ('imagenet1k/Mixer-B_16', 'imagenet1k/Mixer-B_16'),
    ('imagenet1k/Mixer-B_16.npz', 'imagenet1k/Mixer-B_16'),
    ('gs://mixer_models/sam/Mixer-B_32.npz', 'sam/Mixer-B_32'),
    ('https://storage.googleapis.com/mixer_models/gsam/Mixer-S_8.npz', 'gsam/Mixer-S_8'),
    ('mixer_b16_224.goog_in21k', 'timm/mixer_b16_224.goog_in21k'),
    ('hf-hub:timm/mixer_b16_224.goog_in21k', 'timm/mixer_b16_224.goog_in21k'),
    ('gs://vit_models/sam/ViT-B_32.npz', 'sam/ViT-B_32'),
    ('imagenet21k+imagenet2012/ViT-B_16.npz', 'imagenet21k+imagenet2012/ViT-B_16'),
    ('BiT-M-R50x1', 'bit/BiT-M-R50x1'),
    ('gs://bit_models/BiT-S-R101x3.npz', 'bit/BiT-S-R101x3'),
  ],
)
def test_names_and_addresses_of_a_file(text, name):
  assert published.find(text) is published.released[name]


def test_a_base_name_that_many_share_is_no_name():
  with pytest.raises(
    UserError, match=r'did you mean imagenet1k/Mixer-L_16 or imagenet21k/Mixer-L_16'
  ):
    mixer_jax.load('Mixer-L_16')
  with pytest.raises(UserError, match='none of the published files: download it'):
    mixer_jax.load('https://example.invalid/w.npz')


def test_names_that_are_nearly_one_are_answered_with_it():
  with pytest.raises(UserError, match='did you mean imagenet1k/Mixer-B_16 or imagenet21k'):
    mixer_jax.load('B/16')
  with pytest.raises(UserError, match=r'mean timm/mixer_b16_224\.goog_in21k_ft_in1k or'):
    mixer_jax.load('mixer_b16_224')


def test_a_file_is_downloaded_once_and_has_what_the_table_tells(server, cache):
  assert_loads()
  assert files(cache) == ['tiny/Mixer-B_16.npz']
  assert_loads()
  assert len(server.requests) == 1
  checkpoint = checkpoints.read(TINY.name)
  assert (checkpoint.published, checkpoint.layout) == (TINY, 'modern')
  assert mixer_jax.load(TINY.name, gelu='tanh', num_classes=3)[0].num_classes == 3


def test_files_of_one_base_name_are_kept_apart(server, cache, monkeypatch):
  other = dataclasses.replace(TINY, name='other/Mixer-B_16')
  monkeypatch.setitem(published.released, other.name, other)
  shutil.copytree(server.folder / 'tiny', server.folder / 'other')
  assert_loads()
  assert_loads(other.name)
  assert files(cache) == ['other/Mixer-B_16.npz', 'tiny/Mixer-B_16.npz']


def test_a_vits_name_may_have_a_plus_and_its_file_tell_no_heads(server, cache, monkeypatch):
  config = dataclasses.replace(golden_models.read('vit_token')[0], gelu='erf')
  url = 'https://vits.invalid/w.safetensors'
  entry = published.Released('imagenet21k+imagenet2012/ViT', url, config, None)
  monkeypatch.setitem(published.released, entry.name, entry)
  (server.folder / 'imagenet21k+imagenet2012').mkdir()
  file = golden_models.DATA / 'vit_token.timm.safetensors'
  shutil.copy(file, server.folder / entry.file)
  assert mixer_jax.load(entry.name)[0] == config
  assert files(cache) == ['imagenet21k+imagenet2012/ViT.safetensors']
  assert server.requests[0][0] == f'/{entry.file}'
  with pytest.raises(UserError, match='with 3 heads, not num_heads=4'):
    mixer_jax.load(entry.name, num_heads=4)


def test_a_broken_connection_is_gone_on_with(server, cache, monkeypatch):
  monkeypatch.setattr(download.time, 'sleep', lambda _: None)
  server.break_after = [20_000, 1, 30_000]
  assert_loads()
  assert [asked for _, asked in server.requests] == [
    None,
    'bytes=16384-',
    'bytes=16384-',
    'bytes=32768-',
  ]


def test_what_a_killed_process_left_is_gone_on_with(server, cache):
  whole = (reference.DATA / 'mixer_tiny.npz').read_bytes()
  part = download.part_of(cache / TINY.file)
  for left in (whole[:30_000], whole):
    shutil.rmtree(cache, ignore_errors=True)
    part.parent.mkdir(parents=True)
    part.write_bytes(left)
    server.requests.clear()
    assert_loads()
    assert server.requests[0][1] == f'bytes={len(left)}-'
    assert files(cache) == [TINY.file]


def test_a_part_of_another_file_is_not_mixed_in(server, cache):
  part = download.part_of(cache / TINY.file)
  part.parent.mkdir(parents=True)
  part.write_bytes(bytes(100_000))  # longer than the file
  assert_loads()
  shutil.rmtree(cache)
  part.parent.mkdir(parents=True)
  part.write_bytes(bytes(1000))  # shorter, and of other bytes
  with pytest.raises(
    UserError, match=r'what came from http.* is not tiny/Mixer-B_16 .*: try again'
  ):
    mixer_jax.load(TINY.name)
  assert TINY.file not in files(cache)
  assert_loads()


def test_a_server_without_ranges_sends_it_anew(server, cache, monkeypatch):
  monkeypatch.setattr(download.time, 'sleep', lambda _: None)
  server.ranges = False
  server.break_after = [20_000]
  assert_loads()


def test_a_server_that_never_gets_further_is_given_up(server, cache, monkeypatch):
  monkeypatch.setattr(download.time, 'sleep', lambda _: None)
  server.break_after = [20_000] + [0] * 20
  with pytest.raises(UserError, match='out of reach'):
    mixer_jax.load(TINY.name)
  assert len(server.requests) == 1 + download._RETRIES
  server.break_after = []
  assert_loads()
  assert server.requests[-1][1] == 'bytes=16384-'


@pytest.mark.parametrize(('status', 'reason'), [(404, '404 Not Found'), (403, '403'), (416, '416')])
def test_a_refusal_says_which_file_to_bring_where(server, cache, status, reason):
  server.statuses = [status]
  with pytest.raises(UserError) as error:
    mixer_jax.load(TINY.name)
  for part in (
    reason,
    f'copy {server.url}/{TINY.file} to {cache / TINY.file}',
    'MIXER_JAX_MIRROR',
  ):
    assert part in str(error.value)
  assert not files(cache)
  assert_loads()


@pytest.mark.parametrize('status', [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(server, cache, monkeypatch, status):
  monkeypatch.setattr(download.time, 'sleep', lambda _: None)
  server.statuses = [status] * 3
  assert_loads()
  server.statuses = [status] * 100
  shutil.rmtree(cache)
  server.requests.clear()
  with pytest.raises(StorageError, match=f'out of reach .*{status}'):
    mixer_jax.load(TINY.name)
  assert len(server.requests) == download._RETRIES + 1


LIES = {
  'always 416': (416, {'Content-Range': 'bytes */69000'}, b''),
  'a part from another offset': (206, {'Content-Range': 'bytes 7-68999/69000'}, bytes(100)),
  'a part without its range': (206, {}, bytes(100)),
  'a range that is none': (206, {'Content-Range': 'bytes x-y/z'}, bytes(100)),
  'a negative length': (200, {'Content-Length': '-1'}, bytes(100)),
  'no length': (200, {}, bytes(100)),
  'a body without end': (200, {'Content-Length': '1000', 'X-Endless': '1'}, bytes(2000)),
  'a body that is too short': (200, {'Content-Length': '69000'}, bytes(100)),
  'a compressed body': (200, {'Content-Length': '69000', 'Content-Encoding': 'gzip'}, BOMB),
  'an address that is none': (302, {'Location': 'http://[::1/x'}, b''),
  'an address with letters for a port': (302, {'Location': 'http://a:port/x'}, b''),
  'an address of another kind': (302, {'Location': 'ftp://127.0.0.1/x'}, b''),
  'a circle': (302, {'Location': f'/{TINY.file}'}, b''),
}


@pytest.mark.parametrize('begun', [0, 1000], ids=['new', 'resumed'])
@pytest.mark.parametrize('lie', LIES)
def test_a_server_that_lies_is_given_up(server, cache, monkeypatch, lie, begun):
  monkeypatch.setattr(download.time, 'sleep', lambda _: None)
  monkeypatch.setitem(published.released, TINY.name, dataclasses.replace(TINY, mebibytes=None))
  server.lie = LIES[lie]
  part = download.part_of(cache / TINY.file)
  part.parent.mkdir(parents=True)
  if begun:
    part.write_bytes((reference.DATA / 'mixer_tiny.npz').read_bytes()[:begun])
  with pytest.raises(UserError) as error:
    mixer_jax.load(TINY.name)
  assert '\n' not in str(error.value)
  assert TINY.name in str(error.value)
  assert len(server.requests) <= (31 if lie == 'a circle' else 2 * (download._RETRIES + 1))
  assert files(cache) in ([], [f'tiny/{part.name}'])


def test_a_connection_that_brings_hardly_anything_is_given_up(server, monkeypatch):
  monkeypatch.setattr(download.time, 'sleep', lambda _: None)
  monkeypatch.setattr(download, '_SLOWEST', (2**30, 0))
  with pytest.raises(StorageError, match='hardly anything arrives'):
    mixer_jax.load(TINY.name)


def test_other_addresses_are_refused_at_once(tmp_path):
  with pytest.raises(download.UnreachableError, match='are not downloaded from ftp://') as error:
    download.download('ftp://127.0.0.1/x', tmp_path / 'x', lambda length: None)
  assert not error.value.may_pass


def test_offline_it_says_which_file_to_bring_where(cache, monkeypatch):
  with serving(cache) as running:
    monkeypatch.setenv('MIXER_JAX_MIRROR', running.url)
  with pytest.raises(UserError, match=r'out of reach \(no connection\): copy http://127'):
    mixer_jax.load(TINY.name)


def test_a_file_of_another_size_is_refused_before_it_is_read(server, cache):
  (server.folder / TINY.file).write_bytes(b'<html>please log in</html>')
  with pytest.raises(UserError, match=r'has 0\.06 MiB, and what is at .* 0\.00'):
    mixer_jax.load(TINY.name)
  assert not (cache / TINY.file).exists()
  assert not download.part_of(cache / TINY.file).exists()


def test_a_file_of_another_model_never_comes_into_the_cache(server, cache, monkeypatch):
  wrong = dataclasses.replace(
    TINY, config=dataclasses.replace(TINY.config, num_blocks=4), mebibytes=None
  )
  monkeypatch.setitem(published.released, TINY.name, wrong)
  with pytest.raises(UserError, match=r'is not tiny/Mixer-B_16 .*holds 3 blocks .* 4 blocks'):
    mixer_jax.load(TINY.name)
  assert not files(cache)


def test_damage_in_the_cache_is_told_with_the_way_out(server, cache):
  assert_loads()
  data = bytearray((cache / TINY.file).read_bytes())
  data[5000] ^= 1
  (cache / TINY.file).write_bytes(data)
  with pytest.raises(UserError, match=r'Bad CRC-32.*: remove it, and it is downloaded again'):
    mixer_jax.load(TINY.name)


def test_a_mirror_may_be_a_folder(server, cache, monkeypatch):
  monkeypatch.setenv('MIXER_JAX_MIRROR', str(server.folder))
  assert_loads()
  assert not server.requests
  assert not cache.exists()
  (server.folder / TINY.file).unlink()
  with pytest.raises(UserError, match=r'the mirror has no .*: put the file from https://mixers'):
    mixer_jax.load(TINY.name)


@pytest.mark.parametrize('mirror', ['http://', 'htp://a', 'FILE', 'none'])
def test_a_mirror_that_is_none_is_named(tmp_path, monkeypatch, mirror):
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('MIXER_JAX_MIRROR', mirror.replace('FILE', str(tmp_path / 'file')))
  with pytest.raises(UserError, match='is neither a folder nor'):
    mixer_jax.load(TINY.name)


def test_a_mirror_may_be_a_folders_address(server, monkeypatch):
  monkeypatch.setenv('MIXER_JAX_MIRROR', f'file://{server.folder}')
  assert_loads()


def test_a_full_disk_is_told_before_anything_is_written(server, cache, monkeypatch):
  usage = shutil.disk_usage('/')
  monkeypatch.setattr(download.shutil, 'disk_usage', lambda _: usage._replace(free=1000))
  with pytest.raises(UserError, match='0 MiB left, 0 are needed: free some space'):
    mixer_jax.load(TINY.name)
  assert not download.part_of(cache / TINY.file).exists()


def test_a_cache_that_cannot_be_written_is_named(server, monkeypatch):
  monkeypatch.setenv('MIXER_JAX_CACHE', '/proc/none')
  with pytest.raises(UserError, match=r'cannot be stored \(/proc/none.*MIXER_JAX_CACHE'):
    mixer_jax.load(TINY.name)


def test_of_two_at_once_one_downloads(server, cache, caplog):
  caplog.set_level(logging.INFO)
  target = cache / TINY.file
  target.parent.mkdir(parents=True)
  with (target.parent / f'.lock-{target.name}').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    thread = threading.Thread(target=assert_loads)
    thread.start()
    time.sleep(0.5)
    assert not server.requests
    shutil.copy(server.folder / TINY.file, target)
  thread.join(20)
  assert not thread.is_alive()
  assert not server.requests
  assert 'another process downloads it; waiting' in caplog.text


def test_nobody_waits_for_one_that_is_stuck(cache, monkeypatch):
  monkeypatch.setattr(download, '_STALLED_SECONDS', 0.3)
  target = cache / TINY.file
  target.parent.mkdir(parents=True)
  with (target.parent / f'.lock-{target.name}').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(UserError, match='makes no progress: end that one'):
      mixer_jax.load(TINY.name)


def test_a_path_goes_before_a_name(tmp_path, monkeypatch):
  (tmp_path / 'tiny').mkdir()
  shutil.copy(reference.DATA / 'mixer_tiny.npz', tmp_path / 'tiny' / 'Mixer-B_16.npz')
  monkeypatch.chdir(tmp_path)
  assert mixer_jax.load('tiny/Mixer-B_16.npz')[0].gelu == 'tanh'
