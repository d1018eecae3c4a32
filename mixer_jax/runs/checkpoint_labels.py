"""What is known of a checkpoint beside its arrays: its recipe, and the names of its classes."""

import logging
import re
from collections.abc import Sequence
from typing import Any

from mixer_jax.checkpoints import Checkpoint
from mixer_jax.data.catalog import class_ids, in_english
from mixer_jax.data.folders import are_numbers
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError

log = logging.getLogger(__name__)

_RECIPE = ('resmall-crop', 0.875)


def recipe_of(checkpoint: Checkpoint) -> tuple[str, float]:
  """(recipe, crop fraction): of its run, or of the table, otherwise the paper's Table 3."""
  metadata = checkpoint.metadata
  if 'eval_recipe' in metadata:
    return metadata['eval_recipe'], metadata['eval_crop_fraction']
  if checkpoint.published:
    return checkpoint.published.recipe, 0.875
  log.info('the file does not tell its recipe: %s is taken', _RECIPE[0])
  return _RECIPE


def permutation_of(checkpoint: Checkpoint) -> dict[str, Any]:
  """The fields of a `DataConfig` that say how the images of its run were permuted."""
  data = checkpoint.metadata.get('config', {}).get('data', {})
  return {name: value for name, value in data.items() if name.startswith('permutation')}


def pretrained_on(checkpoint: Checkpoint) -> str | None:
  """The data set that it was trained on: of its run, or of the table where it is the paper's."""
  if 'data' in checkpoint.metadata:
    return checkpoint.metadata['data']
  return checkpoint.published.pretrained_on if checkpoint.published else None


def is_assumed(checkpoint: Checkpoint) -> bool:
  """Whether GELU and input range are only what most files take: a weights file has neither."""
  return not checkpoint.metadata and not checkpoint.published


def classes_of(checkpoint: Checkpoint) -> tuple[str, ...] | None:
  """What a data set would call the classes: those of its run, or of the table's data set."""
  if checkpoint.metadata.get('classes'):
    return tuple(checkpoint.metadata['classes'])
  if checkpoint.published and checkpoint.published.classes:
    return class_ids(checkpoint.published.classes)
  return None


def spoken(classes: Sequence[str]) -> tuple[str, ...]:
  """Class names to be read: a WordNet id of ImageNet is followed by its words."""
  words = in_english(tuple(classes))
  pairs = zip(classes, words, strict=True)
  return tuple(name if name == word else f'{name} {word}' for name, word in pairs)


def in_order_of(checkpoint: Checkpoint, source: Source) -> Source:
  """The source with labels as the checkpoint's head counts them.

  A source with some of the head's classes is taken by their names, or by their
  numbers where they are called so; one with as many classes, in its own order. A
  thousand classes of unknown names are ImageNet's, if the source's are.

  Raises:
    UserError: it is neither.
  """
  known, size = classes_of(checkpoint), checkpoint.config.num_classes
  names = source.classes
  if known is None and size == 1000 and all(re.fullmatch(r'n[0-9]{8}', n) for n in names):
    known = class_ids('imagenet2012')
  if known == names:
    return source
  if known and set(names) <= set(known):
    return source.renumbered(known, [known.index(name) for name in names])
  if are_numbers(names) and max(map(int, names)) < size:
    return source.renumbered([str(i) for i in range(size)], [int(name) for name in names])
  if len(names) == size:
    if known or are_numbers(names):
      log.warning('%s calls its classes otherwise than the checkpoint: taken by order', source.name)
    return source
  raise UserError(
    f'the model has {size} classes and {source.name} has {len(names)}: '
    + _way_out(checkpoint, source)
  )


def _way_out(checkpoint: Checkpoint, source: Source) -> str:
  if checkpoint.published and checkpoint.published.note:
    return checkpoint.published.note
  fine_tune = (
    f'fine-tune with --config.init_from and --config.model.num_classes={len(source.classes)}'
  )
  if source.name.startswith('folder:'):
    return f"call its folders by the model's class names or numbers, or {fine_tune}"
  return fine_tune
