"""`mixer-jax report`: one page of runs and studies, in a parser and in a real browser."""

import dataclasses
import io
import json
import math
import os
import pathlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image, ImageFont

from configs import digits, pretrain
from mixer_jax.__main__ import main
from mixer_jax.models import paper
from mixer_jax.runlog.metrics import MetricsFile, read_metrics
from mixer_jax.runs import initial_model
from mixer_jax.webpage.page_style import STYLE
from tests.helpers import browser, train_runs
from tests.helpers.photos import encoded

NASTY = 'l16 "<script>alert(1)</script>'
VOID = ('br', 'img', 'link', 'meta')


class Page(HTMLParser):
  """A page: that it is well formed, the texts of its tables, and everything it refers to."""

  def __init__(self, markup: str):
    super().__init__()
    self.open: list[str] = []
    self.tables: dict[str, list[list[str]]] = {}
    self.elements: list[str] = []
    self.attributes: list[tuple[str, str]] = []
    self.text = ''
    self._label = ''
    self.feed(markup)
    self.close()
    assert self.open == []

  def handle_starttag(self, name, attributes):
    self.elements.append(name)
    values = {key: value or '' for key, value in attributes}
    assert len(values) == len(attributes), 'an attribute twice'
    self.attributes += values.items()
    self.open += [] if name in VOID else [name]
    self._label = values.get('aria-label', self._label)
    if name == 'table':
      self.tables[self._label] = []
    if name == 'tr':
      self.tables[self._label].append([])
    if name in ('td', 'th'):
      self.tables[self._label][-1].append('')

  def handle_endtag(self, name):
    assert self.open.pop() == name

  def handle_data(self, text):
    if 'script' not in self.open and 'style' not in self.open:
      self.text += text
    if {'td', 'th'} & set(self.open):
      self.tables[self._label][-1][-1] += text

  def column(self, table: str, name: str) -> dict[str, str]:
    """Return row -> its text in a column."""
    header, *rows = self.tables[table]
    return {row[0]: row[header.index(name)] for row in rows}


def write_run(folder: pathlib.Path, config, *, steps: int, best: float, cut: bool = False) -> None:
  """Write the workdir of a run without training it: one row per step."""
  folder.mkdir(parents=True)
  model = dataclasses.asdict(initial_model.new_model(config.model))
  (folder / 'config.json').write_text(json.dumps({'config': config.to_dict(), 'model': model}))
  rows = MetricsFile(folder)
  begin = {'event': 'start', 'process': 0, 'devices': 128, 'device': 'TPU v3', 'time': 1.7e9}
  rows.write({**begin, 'step': 0, 'restored': None, 'seconds': 9.0})
  text = []
  for step in range(1, steps + 1):
    share = step / steps
    row = {'step': step, 'loss': 7 * math.exp(-3 * share) + 0.1 * math.sin(step), 'accuracy': share}
    row |= {'learning_rate': 1e-3 * (1 - share), 'grad_norm': 1.0, 'images_per_second': 1000.0}
    row |= {'input_wait': 0.125} if best > 50 else {}  # earlier runs have none
    text.append(json.dumps({**row, 'seconds': 9.0 + step}) + '\n')
    if step % (steps // 4) == 0:
      numbers = {
        'top1': best * share,
        'real': 90 * share,
        'loss': 3.0 - share,
        'seconds': 9.0 + step,
      }
      text.append(json.dumps({'event': 'eval', 'step': step, **numbers}) + '\n')
  with (folder / 'metrics.jsonl').open('a') as file:
    file.writelines(text)
    file.write('{"step": 3, "lo\n{"step": "x"}\n' if cut else '')
  rows.write({**begin, 'step': steps // 2, 'restored': 'x', 'seconds': 9.0})


def png(width: int = 30) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(np.zeros((20, width, 3), np.uint8)).save(buffer, 'PNG')
  return buffer.getvalue()


@pytest.fixture(scope='module')
def workdirs(tmp_path_factory) -> pathlib.Path:
  """Two long runs of the paper's models, a short one, and a study with a run of its own."""
  root = tmp_path_factory.mktemp('workdirs')
  write_run(root / 'b16', pretrain.get_config('B/16,imagenet2012'), steps=50_000, best=75.5)
  large = pretrain.get_config('L/16,imagenet21k')
  write_run(root / NASTY.replace('/', '_'), large, steps=50_000, best=40.0, cut=True)
  write_run(root / 'digits', digits.get_config(), steps=8, best=99.0)
  study = root / 'study'
  write_run(study / 'a' / 'b', digits.get_config(), steps=4, best=12.5)
  scaling = {
    'B/16': {'0.1': {'top1': [50.25, 51.0]}, '1.0': {'top1': [75.5]}},
    '<b>': {'0.1': {'top1': [60.0]}, '1.0': {'top1': [70.0]}},
  }
  (study / 'scaling.json').write_text(json.dumps(scaling))
  (study / 'scaling.png').write_bytes(png())
  (study / 'measured.json').write_text('{"seconds": 0.125}')
  (study / 'broken.json').write_text('{"a": ')
  (study / 'broken.png').write_bytes(b'no PNG')
  (root / 'b16' / 'predictions.png').write_bytes(png(40))
  (root / 'b16' / 'checkpoints' / '25000.damaged').mkdir(parents=True)
  return root


def report(*folders, output: pathlib.Path) -> Page:
  assert main(['report', *map(str, folders), f'--output={output}']) == 0
  return Page(output.read_text())


@pytest.fixture(scope='module')
def made(workdirs) -> pathlib.Path:
  """The page of all workdirs."""
  names = ('b16', NASTY.replace('/', '_'), 'digits', 'study')
  output = workdirs / 'page.html'
  assert main(['report', *(str(workdirs / name) for name in names), f'--output={output}']) == 0
  return output


def test_every_run_and_table_is_on_the_page(made):
  page = Page(made.read_text())
  large = NASTY.replace('/', '_')
  assert page.column('runs', 'steps') == {
    'b16': '50,000 of 92,897',
    large: '50,000 of 1,029,427',
    'digits': '8 of 1,200',
  }
  assert page.column('runs of study', 'variant') == {'a/b': 'Mixer of 4 blocks, width 64'}
  assert page.column('runs compared with the paper', 'top-1, %') == {
    'b16': '75.50',
    "the paper's B/16 (Table 3)": '76.44',
    large: '40.00',
    "the paper's L/16 (Table 3)": '83.91',
    "the paper's L/16 (Table 2)": '84.15',
  }
  differ = page.column('settings that differ', 'digits')
  assert differ['batch_size'] == '128'
  assert 'optimizer.clip_norm' not in differ
  events = [row[3] for row in page.tables['events'][1:] if row[0] == 'b16']
  assert events == [
    'started on 128 × TPU v3',
    'restarted on 128 × TPU v3; 25,000 steps are repeated',
    'the state of this step is damaged and was set aside',
    'the devices waited for input 12 % of the time',
  ]
  assert f'{large}: 2 of 50,008 rows of metrics.jsonl cannot be read' in page.text
  for fault in (
    'broken.json is left out: it is not JSON',
    'broken.png is left out: it is not a PNG',
  ):
    assert fault in page.text
  assert page.tables['figures'] == [['', 'value'], ['seconds', '0.125']]
  assert page.elements.count('details') == 3 + 1  # settings, and a file without a picture
  assert page.tables['B/16'] == [['', 'top-1, %'], ['0.1', '50.25, 51.00'], ['1.0', '75.50']]
  assert page.attributes.count(('alt', 'scaling.png of study')) == 1
  assert page.attributes.count(('alt', 'predictions.png of b16')) == 1
  assert page.elements.count('figure') == 6 + 2


def test_the_page_is_small_and_self_contained(made):
  text = made.read_text()
  assert len(text) < 500_000  # three runs, of 100,000 rows
  page = Page(text)
  assert page.elements.count('script') == 1  # the one in a run's name is text
  places = [value for name, value in page.attributes if name in ('src', 'href', 'xlink:href')]
  assert places
  assert all(value.startswith('data:') for value in places)
  assert not re.search(r'https?:|url\(|@import', text.replace('http-equiv', ''))
  assert ('lang', 'en') in page.attributes


def test_the_table_of_runs_fits_a_window_of_1300_px(made):
  """Least widths of columns by the style, in a wide font; a browser is not needed."""
  rem, size = 16, 0.87 * 15  # pixels: of the root, and of the text of tables
  values = {
    name: rem * float(value)
    for name, value in re.findall(
      r'^(thead th|tbody th|.words) {[^}]*min-width: ([\d.]+)rem', STYLE, re.MULTILINE
    )
  }
  padding, _ = re.findall(r'th, td { padding: \S+ ([\d.]+)rem', STYLE)
  assert 'tbody th, .words { overflow-wrap: anywhere }' in STYLE
  font = lambda name: ImageFont.truetype(font_manager.findfont(name), 100)
  plain, bold = font('DejaVu Sans'), font('DejaVu Sans:bold')
  width = lambda text, one=plain: one.getlength(text) * size / 100
  header, *rows = Page(made.read_text()).tables['runs']
  total = 0.0
  for place, name in enumerate(header):
    words = [values['thead th'], *(width(word, bold) for word in re.split(r'(?<=-)| ', name))]
    if place == 0:
      words.append(values['tbody th'])
    elif name in ('variant', 'data'):
      words.append(values['.words'])
    else:
      words += [width(word) for row in rows for word in row[place].split()]
    total += max(words) + 2 * rem * float(padding)
  room = 1300 - 15 - 2 * 3 * rem  # less a scroll bar and the margins of the page
  assert 0.5 * room < total <= room


def test_single_runs_and_equal_settings(workdirs, tmp_path):
  page = report(workdirs / 'digits', output=tmp_path / 'one.html')
  assert 'settings that differ' not in page.tables
  assert 'runs compared with the paper' not in page.tables
  assert page.column('runs', 'steps') == {'digits': '8 of 1,200'}
  assert page.column('settings of digits', 'value')['model.hidden_dim'] == '64'
  os.symlink(workdirs / 'digits', tmp_path / 'digits')
  page = report(workdirs / 'digits', tmp_path / 'digits', output=tmp_path / 'two.html')
  names = list(page.column('runs', 'variant'))
  assert names == [f'{workdirs.name}/digits', f'{tmp_path.name}/digits']
  assert 'None: the configs are the same.' in page.text


def test_a_fine_tuned_run_is_compared_with_the_paper_by_its_pre_training_data(workdirs, tmp_path):
  config = pretrain.get_config('B/16,imagenet2012')
  for name, start in {
    'workdir': str(workdirs / 'b16'),
    'step': str(workdirs / 'b16' / 'checkpoints' / '7'),
    'published': 'imagenet21k/Mixer-B_16',
    'unknown': str(tmp_path / 'gone'),
  }.items():
    write_run(tmp_path / name, config, steps=4, best=50.0)
    stored = json.loads((tmp_path / name / 'config.json').read_text())
    stored['config']['init_from'] = start
    (tmp_path / name / 'config.json').write_text(json.dumps(stored))
  folders = [tmp_path / name for name in ('workdir', 'step', 'published', 'unknown')]
  rows = report(*folders, output=tmp_path / 'page.html').tables['runs compared with the paper'][1:]
  assert [(row[0], row[1], row[3]) for row in rows if 'paper' not in row[0]] == [
    ('workdir', 'imagenet2012', '–'),
    ('step', 'imagenet2012', '–'),
    ('published', 'imagenet21k', '–'),
  ]


def test_an_incomplete_workdir_is_shown_as_far_as_possible(workdirs, tmp_path):
  for name, files in {
    'new': {'config.json': (workdirs / 'digits' / 'config.json').read_text()},
    'rows': {'metrics.jsonl': (workdirs / 'digits' / 'metrics.jsonl').read_text()},
    'damaged': {'config.json': '{', 'metrics.jsonl': '\x00\xff'},
    'other': {'config.json': '{"config": {"a": 1}, "model": {"family": "x"}}'},
    'deep': {'config.json': '[' * 100_000},
  }.items():
    (tmp_path / name).mkdir()
    for file, text in files.items():
      (tmp_path / name / file).write_text(text)
  folders = [tmp_path / name for name in ('new', 'rows', 'damaged', 'other', 'deep')]
  page = report(*folders, output=tmp_path / 'page.html')
  assert page.column('runs', 'steps')['new'] == '0 of 1,200'
  none = dict.fromkeys(('new', 'damaged', 'other', 'deep'), '–')
  assert page.column('runs', 'top-1, %') == {**none, 'rows': '99.00'}
  for name in ('rows', 'damaged', 'other', 'deep'):
    assert f'{name}: its settings cannot be read' in page.text
  assert 'damaged: 1 of 1 rows of metrics.jsonl cannot be read' in page.text


BAD = [
  ([], 'required: WORKDIR'),
  (['{root}/nowhere'], 'no folder'),
  (['{root}/b16/config.json'], 'no folder'),
  (['{root}/b16', '--output={root}'], 'is a folder'),
  (['{root}/b16', '--output=/nowhere/x.html'], 'no folder for --output'),
  (['{root}/b16', '{root}/empty'], 'holds no run and no study'),
  (['ftp://x/y'], 'files cannot be read from ftp://'),
  (['{root}/b16', '--steps=3'], 'unknown argument --steps=3'),
]


@pytest.mark.parametrize(('argv', 'message'), BAD, ids=[' '.join(argv) for argv, _ in BAD])
def test_bad_input_is_one_line_and_writes_nothing(
  argv, message, workdirs, tmp_path, capsys, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (workdirs / 'empty').mkdir(exist_ok=True)
  assert main(['report', *(text.format(root=workdirs) for text in argv)]) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert message in error
  assert not list(tmp_path.iterdir())


def test_the_papers_tables_agree_with_the_table_of_published_files():
  from mixer_jax.checkpoints.published import released

  for name, data in (('imagenet1k', 'imagenet2012'), ('imagenet21k', 'imagenet21k')):
    for variant in ('B/16', 'L/16'):
      row = paper.published(variant, data)[0]
      entry = released[f'{name}/Mixer-{variant.replace("/", "_")}']
      if entry.top1 is None:
        assert f'{row.imagenet:.2f} on ImageNet' in entry.note
      else:
        assert (row.imagenet, row.real) == (entry.top1, entry.real)


@pytest.fixture(scope='module')
def small_images(tmp_path_factory) -> pathlib.Path:
  """A folder of two classes, with one file that is not an image."""
  root = tmp_path_factory.mktemp('images')
  for i in range(24):
    path = root / 'ab'[i % 2] / f'{i}.png'
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encoded(np.full((8, 8, 3), 100 * (i % 2) + i, np.uint8), 'PNG'))
  (root / 'b' / '5.png').write_bytes(b'broken')
  return root


def test_skipped_images_are_named_at_the_end_of_a_run_and_on_the_page(
  small_images, tmp_path, capsys
):
  flags = (
    f'--config.data.name=folder:{small_images}',
    '--config.data.eval_split=train',
    '--config.model.num_classes=2',
    '--config.data.undecodable=skip',
    '--config.eval_batch_size=16',
    '--config.log_every=1',
  )
  assert train_runs.train(tmp_path / 'run', '', *flags) == 0
  lines = [
    line
    for line in capsys.readouterr().err.splitlines()
    if line.startswith('training images that did not decode and were replaced: 1 (')
  ]
  assert len(lines) == 1
  assert lines[0].endswith('b/5.png))')
  rows = read_metrics(tmp_path / 'run')
  (skipped,) = [row for row in rows if row.get('event') == 'undecodable']
  assert (skipped['step'], skipped['images']) == (3, 1)  # at the first save
  assert skipped['names'][0].endswith('b/5.png)')
  page = report(tmp_path / 'run', output=tmp_path / 'page.html')
  events = [(row[1], row[3]) for row in page.tables['events'][1:]]
  assert [(step, text[:23]) for step, text in events] == [
    ('0', 'started on 8 × cpu'),
    ('3', 'training images that di'),
    ('6', 'finished'),
    ('', '2 states saved; trainin'),
    ('', 'the devices waited for '),
  ]
  assert page.column('runs', 'steps') == {'run': '6'}
  assert page.elements.count('img') == 1  # predictions.png


needs_browser = pytest.mark.skipif(
  not (browser.CHROMIUM and browser.CHROMEDRIVER),
  reason='neither Chromium nor Chrome with its chromedriver is on PATH',
)


@needs_browser
def test_a_browser_opens_it_without_errors_and_shows_values(made, tmp_path):
  bad = tmp_path / 'bad.html'
  bad.write_text('<script>nothing.at.all</script><img src="http://192.0.2.1/x.png">')
  with browser.opened(tmp_path, '--window-size=1200,900') as window:
    window.open(bad)
    assert any('nothing is not defined' in line for line in window.complaints())
    window.open(made)
    assert window.complaints() == []
    assert window.run('return document.querySelectorAll(".area > .tip").length') == 5
    assert window.run('return [...document.images].every(i => i.complete || i.loading == "lazy")')
    box = window.run(
      'const area = document.querySelector(".area"); area.scrollIntoView({block: "center"});'
      'const b = area.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]'
    )
    window.point(box[0] + box[2] / 2, box[1] + box[3] / 2)
    tip = window.run('return document.querySelector(".area .tip").innerText.split("\\n")')
    assert tip[0] == 'step'
    assert int(tip[1].replace(',', '')) == pytest.approx(25_000, rel=0.01)
    assert tip[2:4] == ['b16, batches', pytest.approx(tip[3])]
    assert float(tip[3]) == pytest.approx(7 * math.exp(-1.5), abs=0.02)
    # Only scrolling parts are wider than the page, also on a phone.
    for width in (1200, 390):
      window.ask('window/rect', width=width, height=900)
      assert window.run('return document.documentElement.scrollWidth <= window.innerWidth')
    assert window.run('return document.body.innerText').count('alert(1)') >= 3
    assert window.complaints() == []
