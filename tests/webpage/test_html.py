"""Elements of a page: text from files is escaped."""

import base64
import hashlib
from html.parser import HTMLParser

import pytest

from mixer_jax.webpage import html, page_style
from mixer_jax.webpage.html import Html, tag

NASTY = '<script>alert("1")</script> & \'x\'\x00\udce9'


class Texts(HTMLParser):
  """Text and attributes of markup, unescaped; names of its elements."""

  def __init__(self, markup: str):
    super().__init__()
    self.texts: list[str] = []
    self.elements: list[str] = []
    self.values: list[str] = []
    self.feed(markup)

  def handle_starttag(self, name, attributes):
    self.elements.append(name)
    self.values += [value or '' for _, value in attributes]

  def handle_data(self, text):
    self.texts.append(text)


def test_text_and_attributes_are_escaped_and_markup_is_not():
  parsed = Texts(tag('p', NASTY, tag('b', NASTY), title=NASTY))
  assert parsed.elements == ['p', 'b']
  clean = '<script>alert("1")</script> & \'x\'\\x00\\xe9'
  assert ''.join(parsed.texts) == clean * 2
  assert parsed.values == [clean]
  assert isinstance(tag('p'), Html)


def test_attributes_and_children_of_all_kinds():
  made = tag('div', 'a', None, 1, (tag('i', x) for x in 'bc'), class_='k', data_x=0, hidden=True,
             title=None, open=False)  # fmt: skip
  assert made == '<div class="k" data-x="0" hidden>a1<i>b</i><i>c</i></div>'
  assert tag('img', src='x') == '<img src="x">'


def test_a_table_has_a_header_a_row_and_a_name_for_each_row():
  parsed = Texts(html.table(['', '<n>'], [['a', 1], ['b', NASTY]], label='l', words=[1]))
  assert parsed.elements.count('tr') == 3
  assert parsed.elements.count('td') == 2
  assert parsed.values.count('words') == 3
  assert '<n>' in parsed.texts


def test_a_page_loads_nothing_and_runs_only_its_own_script():
  page = html.page(NASTY, tag('h1', 'x'))
  parsed = Texts(page)
  assert parsed.elements.count('script') == 1
  digest = base64.b64encode(hashlib.sha256(page_style.SCRIPT.encode()).digest()).decode()
  (policy,) = [value for value in parsed.values if 'default-src' in value]
  assert f"script-src 'sha256-{digest}'" in policy
  assert "default-src 'none'" in policy


def luminance(color: str) -> float:
  parts = [int(color[i : i + len(color) // 3] * (6 // (len(color) - 1)), 16) / 255
           for i in range(1, len(color), len(color) // 3)]  # fmt: skip
  linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
  return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize('scheme', [0, 1, 2])
def test_every_colour_has_contrast_with_its_background(scheme):
  # WCAG 2.1, contrast of text: 4.5.
  block = page_style.STYLE.split(':root {')[scheme + 1].split('}')[0]
  colors = dict(part.strip().split(': ') for part in block.split(';') if ':' in part)
  for name in ('--ink', '--soft', *(f'--c{i}' for i in range(page_style.COLORS))):
    for background in ('--back', '--card'):
      dark, light = sorted(luminance(colors[key].strip()) for key in (name, background))
      assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, background)
