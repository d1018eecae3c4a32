"""Elements of an HTML page, escaped where they are made: no text becomes markup by accident."""

import base64
import hashlib
import html
from collections.abc import Container, Iterable, Sequence

from mixer_jax.webpage.page_style import SCRIPT, STYLE


class Html(str):
  """Markup. Any other text is escaped where it becomes part of an element."""


Child = str | int | float | None | Iterable['Child']

_VOID = ('br', 'img', 'link', 'meta')


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
  """`<name …>children</name>`.

  Args:
    children: markup, text, numbers, or iterables of them; None is nothing.
    attributes: a trailing underscore is left out (`class_`), others become hyphens. None and
      False are left out, True stands without a value.
  """
  told = ''.join(
    f' {key.rstrip("_").replace("_", "-")}' + ('' if value is True else f'="{escaped(value)}"')
    for key, value in attributes.items()
    if value is not None and value is not False
  )
  if name in _VOID:
    return Html(f'<{name}{told}>')
  return Html(f'<{name}{told}>{"".join(map(escaped, children))}</{name}>')


def escaped(child: Child) -> Html:
  """What stands for this in a page: markup as it is, text with its <, >, & and quotes escaped."""
  if isinstance(child, Html):
    return child
  if child is None:
    return Html()
  if isinstance(child, str | int | float):
    # Names of files may hold bytes that are no text, and control characters.
    text = str(child).encode(errors='replace').decode()
    return Html(html.escape(''.join(c if c >= ' ' or c in '\t\n' else '\N{REPLACEMENT CHARACTER}'
                                    for c in text)))  # fmt: skip
  return Html(''.join(map(escaped, child)))


def table(
  header: Sequence[Child],
  rows: Iterable[Sequence[Child]],
  *,
  label: str,
  words: Container[int] = (),
) -> Html:
  """A table whose first column names its rows; wide ones scroll.

  Args:
    label: what it is, for screen readers.
    words: columns of text, which is aligned to the left and may break; the others hold numbers.
  """
  kind = lambda column: 'words' if column in words else None
  cells = lambda row: (tag('td', cell, class_=kind(i)) for i, cell in enumerate(row) if i)
  heads = (tag('th', cell, scope='col', class_=kind(i)) for i, cell in enumerate(header))
  body = (tag('tr', tag('th', row[0], scope='row'), cells(row)) for row in rows)
  inside = tag('table', tag('thead', tag('tr', heads)), tag('tbody', body))
  return tag('div', inside, class_='scroll', role='region', tabindex=0, aria_label=label)


def picture(png: bytes, alt: str) -> Html:
  """A PNG inside the page."""
  data = base64.b64encode(png).decode()
  return tag('img', src=f'data:image/png;base64,{data}', alt=alt, loading='lazy')


def page(title: str, *body: Child) -> Html:
  """A whole document that asks nothing of any network, and may run no script but its own."""
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
  whole = tag('body', tag('main', *body), tag('script', Html(SCRIPT)))
  return Html(f'<!doctype html>\n{tag("html", head, whole, lang="en")}\n')
