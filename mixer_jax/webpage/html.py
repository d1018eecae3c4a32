"""Elements of an HTML page. All text is escaped when an element is made."""

import base64
import hashlib
import html
from collections.abc import Container, Iterable, Sequence

from mixer_jax.errors import printable_lines
from mixer_jax.webpage.page_style import SCRIPT, STYLE


class Html(str):
  """Markup. Other text is escaped when it becomes part of an element."""


Child = str | int | float | None | Iterable['Child']

_VOID = ('br', 'img', 'link', 'meta')


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
  """Make the element `<name …>children</name>`.

  Args:
    children: markup, text, numbers, or iterables of them; None is skipped.
    attributes: a trailing underscore is removed (`class_`), others become hyphens. None and
      False are left out, True is written without a value.
  """
  pairs = ''.join(
    f' {key.rstrip("_").replace("_", "-")}' + ('' if value is True else f'="{escaped(value)}"')
    for key, value in attributes.items()
    if value is not None and value is not False
  )
  if name in _VOID:
    return Html(f'<{name}{pairs}>')
  return Html(f'<{name}{pairs}>{"".join(map(escaped, children))}</{name}>')


def escaped(child: Child) -> Html:
  """Return markup unchanged, and text with its <, >, & and quotes escaped."""
  if isinstance(child, Html):
    return child
  if child is None:
    return Html()
  if isinstance(child, str | int | float):
    # File names may hold control characters, and bytes that are not text.
    return Html(html.escape(printable_lines(str(child))))
  return Html(''.join(map(escaped, child)))


def table(
  header: Sequence[Child],
  rows: Iterable[Sequence[Child]],
  *,
  label: str,
  words: Container[int] = (),
) -> Html:
  """Make a table whose first column names the rows; names wrap, wide tables scroll.

  Args:
    label: title for screen readers.
    words: columns of text, which are left-aligned and wrap; the others hold numbers.
  """
  kind = lambda column: 'words' if column in words else None
  cells = lambda row: (tag('td', cell, class_=kind(i)) for i, cell in enumerate(row) if i)
  heads = (tag('th', cell, scope='col', class_=kind(i)) for i, cell in enumerate(header))
  body = (tag('tr', tag('th', row[0], scope='row'), cells(row)) for row in rows)
  inside = tag('table', tag('thead', tag('tr', heads)), tag('tbody', body))
  return tag('div', inside, class_='scroll', role='region', tabindex=0, aria_label=label)


def picture(png: bytes, alt: str) -> Html:
  """Embed a PNG in the page."""
  data = base64.b64encode(png).decode()
  return tag('img', src=f'data:image/png;base64,{data}', alt=alt, loading='lazy')


def page(title: str, *body: Child) -> Html:
  """Make a complete document that loads nothing from a network and runs only its own script."""
  digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
  policy = (
    f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
  )
  head = tag(
    'head',
    tag('meta', charset='utf-8'),
    tag('meta', http_equiv='Content-Security-Policy', content=policy),
    tag('meta', name='viewport', content='width=device-width, initial-scale=1'),
    tag('meta', name='color-scheme', content='light dark'),
    tag('title', title),
    tag('link', rel='icon', href='data:,'),
    tag('style', Html(STYLE)),
  )
  content = tag('body', tag('main', *body), tag('script', Html(SCRIPT)))
  return Html(f'<!doctype html>\n{tag("html", head, content, lang="en")}\n')
