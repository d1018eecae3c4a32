"""Named models of all families: 'B/16' of the Mixer, 'ViT-B/16', 'BiT-R50x1'."""

import difflib
import re
from typing import Any

from mixer_jax.errors import UserError
from mixer_jax.models import family, mixer, resnet, vit

VARIANTS: dict[str, Any] = {**mixer.VARIANTS, **vit.VARIANTS, **resnet.VARIANTS}
"""Name -> config of the papers' models: 224 px, 1000 classes."""


def variants() -> dict[str, Any]:
  """Name -> config, of families from outside the package as well."""
  named = dict(VARIANTS)
  for module in family.load_all().values():
    named.update(getattr(module, 'VARIANTS', {}))
  return named


def find_variant(text: str) -> tuple[str, Any]:
  """Return name and config of the variant that a user means.

  Upper and lower case are the same; '/', '-' and '_' are the same or left out. 'Mixer-B/16' is
  'B/16'.

  Raises:
    UserError: there is no such variant; the message names near ones.
  """
  named = variants()
  known = {_plain(name): name for name in named}
  known.update({_plain(f'Mixer-{name}'): name for name in mixer.VARIANTS})
  if name := known.get(_plain(str(text))):
    return name, named[name]
  near = difflib.get_close_matches(_plain(str(text)), known, n=3, cutoff=0.6)
  hint = f', did you mean {" or ".join(dict.fromkeys(known[n] for n in near))}?' if near else ':'
  raise UserError(f'no model {text!r}{hint} There are {", ".join(named)}')


def _plain(name: str) -> str:
  return re.sub('[-/_]', '', name.strip().lower())
