"""README and docs: length, links, paths, config fields, and the generated page of commands."""

import re

import pytest

from configs import common
from docs import make_cli
from tests.docs.blocks import PAGES, ROOT
from tests.test_imports import ALLOWED

TEXTS = (*PAGES, ROOT / 'CONTRIBUTING.md', ROOT / 'CHANGELOG.md', ROOT / 'benchmarks' / 'NOTES.md')
# What a page may name although it is no file of the repository.
EXAMPLES = (
  'mixer_jax/models/cnn.py',
  'mixer_jax/studies/X',
  'mixer_jax/commands/X',
  'tests/models/test_cnn.py',
)


def without_code(text: str) -> str:
  """Return a page without its code blocks."""
  return re.sub(r'```.*?```', '', text, flags=re.DOTALL)


def anchors(text: str) -> set[str]:
  """Return the anchors of a page: of headings, as GitHub makes them, and explicit ones."""
  headings = re.findall(r'^#+ (.*)$', without_code(text), re.MULTILINE)
  made = {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in headings}
  return made | set(re.findall(r'<a id="([^"]+)">', text))


def fields(config, prefix: str = '') -> dict[str, object]:
  """Return the dotted name and the value of every field of a config."""
  found = {}
  for name, value in config.items():
    if hasattr(value, 'items'):
      found.update(fields(value, f'{prefix}{name}.') or {f'{prefix}{name}': {}})
    else:
      found[f'{prefix}{name}'] = value
  return found


def test_readme_is_short_and_begins_with_demo_and_test():
  text = (ROOT / 'README.md').read_text()
  assert len(text.splitlines()) <= 120
  assert text.index('make demo') < text.index('make test') < text.index('mixer-jax')


@pytest.mark.parametrize('page', TEXTS, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
  for link in re.findall(r'\]\(([^)\s]+)\)', without_code(page.read_text())):
    if '://' in link:
      continue
    path, _, anchor = link.partition('#')
    target = (page.parent / path).resolve() if path else page
    assert target.is_file(), f'{page.name}: {link}'
    if anchor:
      assert anchor in anchors(target.read_text()), f'{page.name}: {link}'


def test_readme_lists_every_page():
  linked = re.findall(r'\]\(docs/([^)#]+)\)', (ROOT / 'README.md').read_text())
  assert set(linked) == {page.name for page in PAGES} - {'README.md'}


@pytest.mark.parametrize('page', TEXTS, ids=lambda page: page.name)
def test_named_files_exist(page):
  folders = 'benchmarks|configs|docs|launch|mixer_jax|tests'
  for path in re.findall(rf'(?<![\w/.])(?:{folders})/[\w./*-]*', page.read_text()):
    path = path.rstrip('.')
    if path.startswith(EXAMPLES):
      continue
    if '*' in path:
      assert list(ROOT.glob(path)), f'{page.name}: nothing is called {path}'
    else:
      assert (ROOT / path).exists(), f'{page.name}: there is no {path}'


def test_config_page_has_every_field_and_its_default():
  rows = re.findall(
    r'^\| `([\w.]+)` \| `(.*?)` \| .+ \|$', (ROOT / 'docs' / 'config.md').read_text(), re.MULTILINE
  )
  documented = dict(rows)
  assert len(documented) == len(rows), 'a field is documented twice'
  config = common.get_config()
  expected = fields(config)
  common.resnet(config)
  expected = {**fields(config), **expected}
  assert documented == {name: repr(value) for name, value in expected.items()}


def test_page_of_commands_is_current():
  text = make_cli.PAGE.read_text()
  written = dict(re.findall(r'^## (.+?)\n\n```text\n(.*?)\n```$', text, re.DOTALL | re.MULTILINE))
  current = make_cli.sections()
  assert list(written) == list(current), 'run `make docs`'
  for name, help_text in current.items():
    # Python versions differ in where they break lines.
    assert written[name].split() == help_text.split(), f'{name}: run `make docs`'


def test_page_of_the_architecture_has_the_import_rules():
  text = (ROOT / 'docs' / 'architecture.md').read_text()
  rows = re.findall(r'^\| `(\w+)` \| (none|`.*`) \|$', text, re.MULTILINE)
  documented = {name: set(re.findall(r'`(\w+)`', others)) for name, others in rows}
  packages = {
    name: others
    for name, others in ALLOWED.items()
    if name not in ('errors', 'paths', 'storage', 'home', 'hardware', '__init__', '__main__')
  }
  assert documented == packages
