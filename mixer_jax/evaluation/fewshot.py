"""Few-shot accuracy, the paper's "ImageNet 5-shot": ridge regression on frozen features.

In closed form, from the features of a few images a class to their one-hot labels in {-1, 1}.
The protocol is that of the authors' public evaluator: features less their mean over the chosen
images, by their standard deviation plus 1e-5; a constant feature behind them, for the bias; a
fixed L2; the most positive output is the class. The choice of 5 shots begins that of 10 of the
same seed.

With features X (n, C) so whitened, targets Y (n, N), and the constant b, the weights are
argmin |[X, b]·W − Y|² + l2·|W|². X has no mean, so the constant is orthogonal to it, and the two
can be solved apart, exactly: (XᵀX + l2)⁻¹XᵀY for the features, n·b²/(n·b² + l2)·mean(Y) for the
bias. So float32 comes within 3.6e-7 of the outputs' range of float64, against 7.5e-7 together
(5000 random images, C = 768, 200 classes).
"""

import concurrent.futures
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax import models
from mixer_jax.data import pipeline
from mixer_jax.data.pipeline import Batch
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from mixer_jax.parallel import mesh as meshes

HIGHEST = jax.lax.Precision.HIGHEST  # a TPU would else multiply in bfloat16


@dataclasses.dataclass(frozen=True)
class FewShotConfig:
  """Attributes:
  shots: images a class; one figure each.
  seeds: choices of them, 0 to `seeds` − 1; each shot's figure is the mean over them.
  l2: what is added to the diagonal of XᵀX, a sum over images.
  constant: value of the bias's feature; a large one leaves the bias almost free.
  max_reads: most records a seed that are read to find the shots; 0: all there are.
  """

  shots: tuple[int, ...]
  seeds: int
  l2: float
  constant: float
  max_reads: int

  def __post_init__(self):
    positive = lambda value: type(value) is int and value > 0
    if not self.shots or not all(map(positive, self.shots)):
      raise UserError(f'few-shot shots must be positive whole numbers, are {self.shots!r}')
    if len(set(self.shots)) != len(self.shots):
      raise UserError(f'few-shot shots name a number twice: {self.shots!r}')
    if not positive(self.seeds):
      raise UserError(f'few-shot seeds must be a positive whole number, is {self.seeds!r}')
    for name in ('l2', 'constant'):
      value = getattr(self, name)
      if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise UserError(f'few-shot {name} must be a number in (0, 1e12), is {value!r}')
    if self.max_reads != 0 and not positive(self.max_reads):
      raise UserError(f'few-shot max_reads must be a whole number, 0 for all: {self.max_reads!r}')


PAPER = FewShotConfig(shots=(1, 5, 10, 25), seeds=3, l2=2.0**10, constant=100.0, max_reads=0)
"""The authors' numbers."""


class Classifiers(NamedTuple):
  """Ridge solutions, P of them."""

  mean: jax.Array
  """(P, C)"""
  deviation: jax.Array
  """(P, C), 1e-5 in it."""
  kernel: jax.Array
  """(P, C, N), of whitened features."""
  bias: jax.Array
  """(P, N), the constant's weight times the constant."""


# --- Which images -------------------------------------------------------------------------------


def choose_shots(
  labels: Sequence | np.ndarray,
  shots: int,
  seed: int,
  classes: Sequence[str],
  *,
  max_reads: int = 0,
) -> np.ndarray:
  """The first `shots` examples of each class in the seed's permutation of the whole split.

  Reads labels in that order and stops when all classes are full, so a choice does not depend on
  whether all labels are known, and one of fewer shots is part of one of more.

  Args:
    labels: of every example, ints; anything with a length and items. `SourceLabels` reads them
      from a source.
    classes: names of the classes, by label.
    max_reads: labels that are looked at, at most; 0: all.

  Returns:
    Places in the split, (classes, shots) int64.

  Raises:
    UserError: a class has fewer examples, or a label has no class.
  """
  order = np.random.default_rng(seed).permutation(len(labels))
  order = order[: max_reads or None]
  chosen: list[list[int]] = [[] for _ in classes]
  missing = len(classes)
  for index, label in _in_order(labels, order):
    if not 0 <= label < len(classes):
      raise UserError(f'example {index} has label {label}, of {len(classes)} classes')
    if len(chosen[label]) < shots:
      chosen[label].append(index)
      missing -= len(chosen[label]) == shots
      if not missing:
        return np.array(chosen, np.int64)
  poor = min(range(len(classes)), key=lambda label: len(chosen[label]))
  few = f'class {poor} ({classes[poor]}) has {len(chosen[poor])} examples'
  if len(order) < len(labels):
    raise UserError(f'{few} among the {len(order)} that were read: raise few-shot max_reads')
  raise UserError(f'{few}, too few for {shots} shots: ask for fewer shots')


class SourceLabels(Sequence):
  """Labels of a source, read when they are asked for, each once.

  A record is read for its label, its image is not decoded. Seeds share what was read.
  """

  BLOCK = 256
  """Records that are read at once, so that a remote store's latency is not paid a record."""

  def __init__(self, source: Source, *, threads: int):
    self._source, self._threads = source, max(threads, 1)
    self._known: dict[int, int] = {}

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index):
    index = index.__index__()
    if index not in self._known:
      self._known[index] = int(self._source[index]['label'])
    return self._known[index]

  def in_order(self, order: np.ndarray) -> Iterator[tuple[int, int]]:
    """(place, label) in this order, read ahead by a block."""
    with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
      for start in range(0, len(order), self.BLOCK):
        block = order[start : start + self.BLOCK].tolist()
        yield from zip(block, pool.map(self.__getitem__, block), strict=True)


def _in_order(labels, order: np.ndarray) -> Iterator[tuple[int, int]]:
  if isinstance(labels, SourceLabels):
    return labels.in_order(order)
  return ((int(index), int(labels[index])) for index in order)


class _Chosen(Sequence):
  """Some of a source's records, as a source's records."""

  def __init__(self, records: Sequence, indices: np.ndarray):
    self._records, self._indices = records, indices

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: SupportsIndex):  # pyright: ignore[reportIncompatibleMethodOverride]
    return self._records[int(self._indices[index])]


def part_of(source: Source, indices: np.ndarray) -> Source:
  """The records of a source at these places, in this order."""
  name = f'{source.name}, {len(indices)} chosen'
  return dataclasses.replace(source, name=name, records=_Chosen(source.records, indices))


# --- Their features -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Features:
  """What a split gave, on the host of every process."""

  layers: dict[str, np.ndarray]
  """By name, (examples, C) float32."""
  labels: np.ndarray
  """(examples,) int32."""
  mask: np.ndarray
  """(examples,) bool: it decoded. Where it did not, its features mean nothing."""


def pooled_features(config, params, batch: Mapping[str, Any], names: Sequence[str]) -> dict:
  """These of `models.features` for a batch of `eval_batches`, (B, C) float32; traceable.

  (B, S, C) is averaged over its tokens, in float32.
  """
  images = batch['image']
  if images.dtype != jnp.uint8:
    images = models.from_levels(config, images)
  seen = models.features(config, params, images)
  mean = lambda x: jnp.mean(x, axis=tuple(range(1, x.ndim - 1)), dtype=jnp.float32)
  return {name: mean(seen[name]) for name in names}


def make_feature_step(config, mesh, names: Sequence[str]):
  """The jitted step (params, batch) -> `layers`, `label` and `mask`; all replicated.

  Only the (B, C) means leave the compiled program, not the features of the tokens.

  Raises:
    UserError: the model has no such layer.
  """
  images = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.uint8)
  known = jax.eval_shape(lambda p, x: models.features(config, p, x), models.shapes(config), images)
  for name in names:
    if name not in known:
      raise UserError(f"no layer {name!r} in this model: take 'block_0' or 'pre_logits'")

  def feature_step(params, batch):
    layers = pooled_features(config, params, batch, names)
    return {'layers': layers, 'label': batch['label'], 'mask': batch['mask']}

  return jax.jit(feature_step, out_shardings=meshes.replicated(mesh))


def gather(step, params: dict, batches: Iterable[Batch], mesh, *, size: int) -> Features:
  """Runs a step of `make_feature_step` over all batches of a split of `size` examples.

  The next batch is read and dispatched before the last one's features come to the host.
  """
  results, pending = [], None
  for batch in batches:
    dispatched = step(params, meshes.put(mesh, batch))
    if pending is not None:
      results.append(jax.device_get(pending))
    pending = dispatched
  results.append(jax.device_get(pending))
  whole = jax.tree.map(lambda *parts: np.concatenate(parts)[:size], *results)
  return Features(whole['layers'], whole['label'], whole['mask'])


# --- The solution -------------------------------------------------------------------------------


def solve(x_nC, label_n, mask_n, l2, constant, *, num_classes: int, form: str = '') -> Classifiers:
  """One ridge regression, see the module's text; traceable. P is absent from the shapes.

  Args:
    x_nC: features, float32.
    label_n: classes, ints.
    mask_n: False: the row counts for nothing.
    form: 'primal' solves for C unknowns a class, 'dual' for n; '': for the fewer.
  """
  if form not in ('', 'primal', 'dual'):
    raise UserError(f"the ridge regression has the forms 'primal' and 'dual', not {form!r}")
  mask_n1 = mask_n[:, None]
  n = jnp.maximum(jnp.sum(mask_n, dtype=jnp.float32), 1)
  mean_of = lambda a: jnp.sum(jnp.where(mask_n1, a, 0), axis=0) / n
  # Less one of the rows before anything is summed: a feature that is constant becomes 0 to the
  # last bit. A rounded mean would leave a little of it, to be divided by 1e-5.
  first_C = x_nC[jnp.argmax(mask_n)]
  x_nC = jnp.where(mask_n1, x_nC - first_C, 0)
  shift_C = mean_of(x_nC)
  x_nC = jnp.where(mask_n1, x_nC - shift_C, 0)
  deviation_C = jnp.sqrt(mean_of(x_nC**2)) + 1e-5
  x_nC = x_nC / deviation_C
  y_nN = 2 * jax.nn.one_hot(label_n, num_classes, dtype=jnp.float32) - 1
  offset_N = mean_of(y_nN)
  # Xᵀ·1 = 0, so targets may lose their mean: of a thousand classes, it is nearly all they are.
  y_nN = jnp.where(mask_n1, y_nN - offset_N, 0)
  dot = lambda a, b: jnp.matmul(a, b, precision=HIGHEST)
  if form == 'primal' or (not form and x_nC.shape[1] <= x_nC.shape[0]):
    kernel_CN = _positive_solve(dot(x_nC.T, x_nC), l2, dot(x_nC.T, y_nN))
  else:
    # Rows that do not count are 0 here and in Y, so their unknowns are 0 too.
    kernel_CN = dot(x_nC.T, _positive_solve(dot(x_nC, x_nC.T), l2, y_nN))
  bias_N = offset_N * (n * constant**2 / (n * constant**2 + l2))
  return Classifiers(first_C + shift_C, deviation_C, kernel_CN, bias_N)


def _positive_solve(gram, l2, targets):
  """(G + l2·1)⁻¹·T."""
  # The backends' triangular solves do not take a precision: the context does.
  with jax.default_matmul_precision('highest'):
    lower = jnp.linalg.cholesky(gram + l2 * jnp.eye(gram.shape[0], dtype=gram.dtype))
    return jax.scipy.linalg.cho_solve((lower, True), targets)


def scores(classifier: Classifiers, x_BC) -> jax.Array:
  """Outputs (B, N) of one classifier; the most positive is the class."""
  x_BC = (x_BC - classifier.mean) / classifier.deviation
  return jnp.matmul(x_BC, classifier.kernel, precision=HIGHEST) + classifier.bias


# --- The evaluation -----------------------------------------------------------------------------


class FewShot:
  """Few-shot accuracy of `pre_logits`. Chooses and compiles once; call it with any params.

  So it serves as an evaluation during pre-training: a call reads the chosen images (of ImageNet
  with 5 shots and 3 seeds, 15,000) and the test split, once each.
  """

  def __init__(
    self,
    config,
    few: FewShotConfig,
    train: Source,
    test: Source,
    data: pipeline.DataConfig,
    mesh,
    *,
    batch_size: int,
    process: pipeline.Process | None = None,
    train_labels: Sequence | np.ndarray | None = None,
  ):
    """Reads labels of `train` until the shots are found.

    Args:
      config: the model; its head and number of classes do not matter.
      train: where the shots are from; of the same classes as `test`.
      data: how images are read: those of `eval_batches`.
      batch_size: images a step, of all processes together.
      train_labels: of all of `train`, where they are known: then no record is read for them.

    Raises:
      UserError: the splits have other classes, or a class has too few examples.
    """
    if train.classes != test.classes:
      raise UserError(
        f'few-shot: {train.name} has {len(train.classes)} classes and {test.name} '
        f'{len(test.classes)}, or others: take two splits of one data set'
      )
    meshes.check_batch(mesh, batch_size)
    if train_labels is not None and len(train_labels) != len(train):
      raise UserError(f'{len(train_labels)} labels for the {len(train)} examples of {train.name}')
    labels = SourceLabels(train, threads=data.threads) if train_labels is None else train_labels
    choices = [  # (classes, most shots), a seed
      choose_shots(labels, max(few.shots), seed, train.classes, max_reads=few.max_reads)
      for seed in range(few.seeds)
    ]
    self.chosen = np.unique(choices)
    """Places in `train` of all chosen images, increasing."""
    # Where each choice is among them: (seeds, classes · shots), by shots.
    self._rows = {
      shots: np.searchsorted(self.chosen, np.stack(choices)[:, :, :shots]).reshape(few.seeds, -1)
      for shots in few.shots
    }
    self._few, self._mesh, self._test = few, mesh, test
    self._train = part_of(train, self.chosen)
    self._batches = lambda source: pipeline.eval_batches(
      source, data, image_size=config.image_size, batch_size=batch_size, process=process
    )
    self._feature_step = make_feature_step(config, mesh, ['pre_logits'])

    def solve_all(x_UC, label_U, mask_U, rows_Sn):
      one = lambda row_n: solve(
        x_UC[row_n], label_U[row_n], mask_U[row_n], few.l2, few.constant,
        num_classes=len(train.classes),
      )  # fmt: skip
      return jax.vmap(one)(rows_Sn)

    def test_step(params, classifiers, batch):
      x_BC = pooled_features(config, params, batch, ['pre_logits'])['pre_logits']
      # One after another: side by side, they would need P copies of the whitened features.
      found_PB = jax.lax.map(lambda one: jnp.argmax(scores(one, x_BC), axis=-1), classifiers)
      mask = batch['mask']
      return jnp.sum((found_PB == batch['label']) & mask, axis=1), jnp.sum(mask)

    everywhere = meshes.replicated(mesh)
    self._solve = jax.jit(solve_all, out_shardings=everywhere)  # a program for each of the shots
    self._test_step = jax.jit(test_step, out_shardings=everywhere)

  def classifiers(self, params: dict) -> Classifiers:
    """The solutions for these parameters, on the mesh: each of the shots in turn, by seed."""
    train = gather(
      self._feature_step, params, self._batches(self._train), self._mesh, size=len(self._train)
    )
    if not train.mask.any():
      raise UserError(f'few-shot: none of the images of {self._train.name} decodes')
    place = lambda array: _replicate(self._mesh, array)
    known = place(train.layers['pre_logits']), place(train.labels), place(train.mask)
    # The shots differ in shape, so each is a program; the seeds of one are solved at once.
    solved = [self._solve(*known, place(rows)) for rows in self._rows.values()]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *solved)

  def accuracies(self, params: dict) -> np.ndarray:
    """Percent of the test images that decoded, (shots, seeds).

    Raises:
      UserError: no image of a split decodes.
    """
    classifiers = self.classifiers(params)
    counts, pending = [], None
    for batch in self._batches(self._test):
      dispatched = self._test_step(params, classifiers, meshes.put(self._mesh, batch))
      if pending is not None:
        counts.append(jax.device_get(pending))
      pending = dispatched
    counts.append(jax.device_get(pending))
    examples = sum(int(count) for _, count in counts)
    if not examples:
      raise UserError(f'few-shot: none of the images of {self._test.name} decodes')
    hits = np.sum([hit for hit, _ in counts], axis=0)
    return (100 * hits / examples).reshape(len(self._few.shots), self._few.seeds)

  def __call__(self, params: dict) -> dict[str, float]:
    """{'5-shot': percent, the mean over seeds, '5-shot_deviation': …}, of all shots.

    Args:
      params: on the mesh, as `meshes.put_replicated` or a training state has them.

    The deviation is that of a sample; with one seed there is none, and no such number.
    """
    numbers = {}
    for shots, row in zip(self._few.shots, self.accuracies(params), strict=True):
      numbers[f'{shots}-shot'] = float(row.mean())
      if len(row) > 1:
        numbers[f'{shots}-shot_deviation'] = float(row.std(ddof=1))
    return numbers


def _replicate(mesh, array: np.ndarray) -> jax.Array:
  """The same host array in every process -> a copy on every device."""
  sharding = meshes.replicated(mesh)
  return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
