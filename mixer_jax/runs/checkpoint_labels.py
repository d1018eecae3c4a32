"""Facts about a checkpoint besides its arrays: recipe, training data, and names of its classes."""

import json
import logging
import re
from collections.abc import Sequence
from typing import Any

from mixer_jax.checkpoints import Checkpoint
from mixer_jax.data.catalog import class_aliases, class_ids, in_english
from mixer_jax.data.class_names import are_numbers, matched, some
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from mixer_jax.paths import is_regular, user_path
from mixer_jax.runs.config_versions import stored_config

log = logging.getLogger(__name__)

CROP_FRACTION = 0.875
"""Crop fraction of every recipe in the paper."""

_DEFAULT_RECIPE = 'resmall-crop'


def known_recipe(checkpoint: Checkpoint) -> tuple[str, float] | None:
  """Return (recipe, crop fraction) of its run or published entry, if it has one."""
  metadata = checkpoint.metadata
  if 'eval_recipe' in metadata:
    return metadata['eval_recipe'], metadata['eval_crop_fraction']
  entry = checkpoint.published
  return (entry.recipe, entry.crop_fraction) if entry else None


def evaluation_recipe(checkpoint: Checkpoint) -> tuple[str, float]:
  """Return its known recipe, else that of the paper's Table 3, which is logged."""
  if recipe := known_recipe(checkpoint):
    return recipe
  log.info('the file does not contain its recipe: using %s', _DEFAULT_RECIPE)
  return _DEFAULT_RECIPE, CROP_FRACTION


def trained_loss(checkpoint: Checkpoint) -> str:
  """Return the loss of its run, 'softmax' or 'sigmoid'; 'softmax' where it is not known."""
  if 'config' not in checkpoint.metadata:
    return 'softmax'
  return stored_config(checkpoint.file, checkpoint.metadata)['loss']


def check_head(checkpoint: Checkpoint) -> None:
  """Raise `UserError` if the head of a weights file has still to be trained."""
  if not checkpoint.metadata and checkpoint.has_zero_head:
    raise UserError(
      f'{checkpoint.file}: its head is all zeros, so every image has the same logits: fine-tune it '
      '(--config.init_from), or measure its features with fewshot, probe or embed'
    )


def permutation_fields(checkpoint: Checkpoint) -> dict[str, Any]:
  """Return the fields of a `DataConfig` that describe how the images of its run were permuted."""
  if 'config' not in checkpoint.metadata:
    return {}
  data = stored_config(checkpoint.file, checkpoint.metadata)['data']
  return {name: value for name, value in data.items() if name.startswith('permutation')}


def training_data(checkpoint: Checkpoint) -> str | None:
  """Return the data set it was trained on, from its run or its published entry, if known."""
  if 'data' in checkpoint.metadata:
    return checkpoint.metadata['data']
  return checkpoint.published.pretrained_on if checkpoint.published else None


def has_assumed_arithmetic(checkpoint: Checkpoint) -> bool:
  """Return True if its arithmetic (GELU, input range) is an assumption: a weights file has none."""
  return checkpoint.is_assumed


def class_names(checkpoint: Checkpoint) -> tuple[str, ...] | None:
  """Return its classes as a data set names them, from its run or published entry, if known."""
  if checkpoint.metadata.get('classes'):
    return tuple(checkpoint.metadata['classes'])
  if checkpoint.published and checkpoint.published.classes:
    return class_ids(checkpoint.published.classes)
  return None


def readable_names(classes: Sequence[str]) -> tuple[str, ...]:
  """Return class names for people: a WordNet id of ImageNet is followed by its words."""
  words = in_english(tuple(classes))
  pairs = zip(classes, words, strict=True)
  return tuple(name if name == word else f'{name} {word}' for name, word in pairs)


def output_names(checkpoint: Checkpoint, labels: str | Sequence[str] | None) -> Sequence[str]:
  """Return a name for each output of the head.

  Args:
    labels: the names, or a file or data set to read them from; None: those of the checkpoint.

  Raises:
    UserError: no such file or data set, or a different number of names than outputs.
  """
  size, published = checkpoint.config.num_classes, checkpoint.published
  if labels is not None:
    names = _read_names(labels) if isinstance(labels, str) else labels
    if len(names) != size:
      given = f'labels={labels} has' if isinstance(labels, str) else 'labels has'
      raise UserError(f'{given} {len(names)} names, the model {size} classes')
    return names
  if published and published.classes:
    return in_english(class_ids(published.classes))
  if size == 1000 and not checkpoint.metadata:
    log.info(
      'the file does not contain its class names: --labels=imagenet2012 uses those of ImageNet'
    )
  return class_names(checkpoint) or [f'class {i}' for i in range(size)]


def _read_names(labels: str) -> Sequence[str]:
  """Read a text file with a name per line, a JSON list, or the class names of a data set."""
  path = user_path(labels)
  if not path.exists():
    try:
      return in_english(class_ids(labels))
    except UserError as error:
      raise UserError(f'labels={labels}: no such file, and {error}') from error
  if not is_regular(path):
    raise UserError(f'labels={labels} is not a regular file')
  try:
    text = path.read_bytes().decode('utf-8-sig').replace('\r\n', '\n')
    names = json.loads(text) if path.suffix == '.json' else text.removesuffix('\n').split('\n')
  except (ValueError, RecursionError) as error:
    raise UserError(f'labels={labels} is not text with one name per line: {error}') from error
  if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
    raise UserError(f'labels={labels} is not a JSON list of names')
  return names


def align_classes(checkpoint: Checkpoint, source: Source) -> Source:
  """Return the source with its labels numbered as the outputs of the checkpoint's head.

  If the class names of the head are known, classes are matched by them, also in another case; a
  WordNet id of ImageNet and its words are names of one class. A thousand classes of unknown names
  are assumed to be ImageNet's if the source's are.

  If they are unknown, folders named by numbers are the outputs of these numbers, and equally many
  classes are matched by their order; the pairs are logged.

  Raises:
    UserError: none of these applies; classes that the model does not have are listed.
  """
  known, size = class_names(checkpoint), checkpoint.config.num_classes
  names = source.classes
  if known is None and size == 1000 and all(re.fullmatch(r'n[0-9]{8}', n) for n in names):
    known = class_ids('imagenet2012')
  if known:
    aligned = matched(source, known, 'the model', _advice(checkpoint, source), class_aliases)
    renamed = [
      (name, known[at]) for name, at in zip(names, aligned.labels or (), strict=False)
      if name != known[at]
    ]  # fmt: skip
    if renamed:
      log.info('%s: names matched: %s', source.name, some([f'{a} → {b}' for a, b in renamed]))
    return aligned
  if are_numbers(names) and max(map(int, names)) < size:
    return source.renumbered([str(i) for i in range(size)], [int(name) for name in names])
  if len(names) == size:
    pairs = some([f'{name} → {label}' for label, name in enumerate(names)])
    log.warning('the model has no class names: %s is matched by order, %s', source.name, pairs)
    return source
  raise UserError(
    f'the model has {size} classes and {source.name} has {len(names)}: '
    + _advice(checkpoint, source)
  )


def _advice(checkpoint: Checkpoint, source: Source) -> str:
  if checkpoint.published and checkpoint.published.note:
    return checkpoint.published.note
  fine_tune = (
    f'fine-tune with --config.init_from and --config.model.num_classes={len(source.classes)}'
  )
  if source.name.startswith('folder:'):
    by = 'class names' if class_names(checkpoint) else 'class numbers'
    return f"name its folders by the model's {by}, or {fine_tune}"
  return fine_tune
