"""Folders of images as people have them; nothing in them decodes unless a test writes images."""

import pathlib
from collections.abc import Mapping


def make(root: pathlib.Path, counts: Mapping[str, int], image: bytes = b'') -> str:
  """Make `count` files in each folder below the root; returns 'folder:ROOT'."""
  for folder, count in counts.items():
    (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
      (root / folder / f'{number}.png').write_bytes(image)
  return f'folder:{root}'
