"""Few-shot accuracy, the paper's "ImageNet 5-shot": ridge regression on frozen features.

Solved in closed form, from the features of a few images per class to their one-hot labels in
{-1, 1}. The protocol is that of the authors' public evaluator: images by the recipe `resize-crop`,
and for ImageNet the first 65,000 of train to choose from; features less their mean over the
chosen images, divided by their standard deviation plus 1e-5; a constant feature appended for the
bias; a fixed L2; the largest output is the predicted class. The choice for 5 shots is the beginning
of the choice for 10 of the same seed.

With whitened features X (n, C), targets Y (n, N), and the constant b, the weights are
argmin |[X, b]·W − Y|² + l2·|W|². X has mean 0, so the constant is orthogonal to it, and both parts
can be solved separately, exactly: (XᵀX + l2)⁻¹XᵀY for the features, n·b²/(n·b² + l2)·mean(Y) for
the bias. The float32 result is then within 3.6e-7 of the outputs' range of float64, compared with
7.5e-7 when solved together (5000 random images, C = 768, 200 classes).
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax.data import pipeline
from mixer_jax.data.batch import Batch
from mixer_jax.data.data_config import DataConfig
from mixer_jax.data.source import Source
from mixer_jax.data.subset import SourceLabels, choose_shots, subset
from mixer_jax.errors import UserError
from mixer_jax.evaluation.features import (
  HIGHEST,
  Progress,
  count,
  gather,
  make_feature_step,
  pooled_features,
  put,
  whiten,
)
from mixer_jax.evaluation.pipelined import pipelined
from mixer_jax.evaluation.statistics import MeanDeviation, mean_deviation
from mixer_jax.parallel import mesh as meshes

LAYER = 'pre_logits'
_MAX_SEEDS = 1000


@dataclasses.dataclass(frozen=True)
class FewShotConfig:
  """Settings of few-shot evaluation.

  Attributes:
    shots: numbers of images per class; each gives one figure.
    seeds: number of random choices, of seeds 0 to `seeds` − 1; a figure is the mean over them.
    l2: added to the diagonal of XᵀX, a sum over images.
    constant: value of the bias's feature; a large one leaves the bias almost unregularised.
    max_reads: maximum number of records per seed that are read to find the shots; 0 for all.
  """

  shots: tuple[int, ...]
  seeds: int
  l2: float
  constant: float
  max_reads: int

  def __post_init__(self):
    positive = lambda value: type(value) is int and 0 < value < 2**31
    if not self.shots or not all(map(positive, self.shots)):
      raise UserError(f'few-shot shots must be positive whole numbers, are {self.shots!r}')
    if len(set(self.shots)) != len(self.shots):
      raise UserError(f'few-shot shots name a number twice: {self.shots!r}')
    if not positive(self.seeds) or self.seeds > _MAX_SEEDS:
      raise UserError(f'few-shot seeds must be in 1..{_MAX_SEEDS}, is {self.seeds!r}')
    for name in ('l2', 'constant'):
      value = getattr(self, name)
      if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise UserError(f'few-shot {name} must be a number in (0, 1e12), is {value!r}')
    if self.max_reads != 0 and not positive(self.max_reads):
      raise UserError(f'few-shot max_reads must be a whole number, 0 for all: {self.max_reads!r}')


PAPER = FewShotConfig(shots=(1, 5, 10, 25), seeds=3, l2=2.0**10, constant=100.0, max_reads=0)
"""The authors' settings."""


def authors_split(name: str) -> str:
  """Return the split that the authors choose the few images of a data set from.

  The first 65,000 images of ImageNet hold at least 30 of every class.
  """
  return 'train[:65000]' if name == 'imagenet2012' else 'train'


class Classifiers(NamedTuple):
  """Ridge solutions, P of them."""

  mean: jax.Array
  """(P, C)"""
  deviation: jax.Array
  """(P, C), 1e-5 included."""
  kernel: jax.Array
  """(P, C, N), for whitened features."""
  bias: jax.Array
  """(P, N), the constant's weight times the constant."""


def solve(x_nC, label_n, mask_n, l2, constant, *, num_classes: int, form: str = '') -> Classifiers:
  """Solve one ridge regression, see the module's docstring; traceable. Shapes lack the axis P.

  Args:
    x_nC: features, float32.
    label_n: classes, ints.
    mask_n: False for rows to ignore.
    form: 'primal' solves for C unknowns per class, 'dual' for n; '' chooses the fewer.
  """
  if form not in ('', 'primal', 'dual'):
    raise UserError(f"the ridge regression has the forms 'primal' and 'dual', not {form!r}")
  white = whiten(x_nC, mask_n, lambda deviation: deviation + 1e-5)
  x_nC, n, mask_n1 = white.x_nC, count(mask_n), mask_n[:, None]
  y_nN = 2 * jax.nn.one_hot(label_n, num_classes, dtype=jnp.float32) - 1
  offset_N = jnp.sum(jnp.where(mask_n1, y_nN, 0), axis=0) / n
  # Xᵀ·1 = 0, so the mean of the targets may be removed: of a thousand classes, it is most of them.
  y_nN = jnp.where(mask_n1, y_nN - offset_N, 0)
  dot = lambda a, b: jnp.matmul(a, b, precision=HIGHEST)
  if form == 'primal' or (not form and x_nC.shape[1] <= x_nC.shape[0]):
    kernel_CN = _regularised_solve(dot(x_nC.T, x_nC), l2, dot(x_nC.T, y_nN))
  else:
    # Masked rows are 0 here and in Y, so their unknowns are 0 too.
    kernel_CN = dot(x_nC.T, _regularised_solve(dot(x_nC, x_nC.T), l2, y_nN))
  bias_N = offset_N * (n * constant**2 / (n * constant**2 + l2))
  return Classifiers(white.mean_C, white.scale_C, kernel_CN, bias_N)


def _regularised_solve(gram, l2, targets):
  """(gram + l2·1)⁻¹·targets."""
  # The backends' triangular solves take no precision argument: the context sets it.
  with jax.default_matmul_precision('highest'):
    shifted = gram + l2 * jnp.eye(gram.shape[0], dtype=gram.dtype)
    return jax.scipy.linalg.solve(shifted, targets, assume_a='pos')


def scores(classifier: Classifiers, x_BC) -> jax.Array:
  """Outputs (B, N) of one classifier; the largest is the predicted class."""
  x_BC = (x_BC - classifier.mean) / classifier.deviation
  return jnp.matmul(x_BC, classifier.kernel, precision=HIGHEST) + classifier.bias


class FewShot:
  """Few-shot accuracy of `pre_logits`. Chooses and compiles once; call it with any params.

  It can therefore be an evaluation during pre-training: a call reads the chosen images (15,000 of
  ImageNet with 5 shots and 3 seeds) and the test split, once each.
  """

  def __init__(
    self,
    config,
    few: FewShotConfig,
    train: Source,
    test: Source,
    data: DataConfig,
    mesh,
    *,
    batch_size: int,
    process: pipeline.Process | None = None,
    train_labels: Sequence | np.ndarray | None = None,
    progress: Progress | None = None,
  ):
    """Read labels of `train` until the shots are found.

    Args:
      config: the model; its head and number of classes do not matter.
      train: split of the shots; of the same classes as `test`.
      data: how images are read, as for `eval_batches`.
      batch_size: images per step, over all processes, at most.
      train_labels: labels of all of `train`, if known: then no record is read for its label.
      progress: shows how far each split is read.

    Raises:
      UserError: the splits have different classes, or a class has too few examples.
    """
    if train.classes != test.classes:
      raise UserError(
        f'few-shot: {train.name} has {len(train.classes)} classes and {test.name} '
        f'{len(test.classes)}, or others: take two splits of one data set'
      )
    meshes.check_batch(mesh, batch_size)
    if train_labels is not None and len(train_labels) != len(train):
      raise UserError(f'{len(train_labels)} labels for the {len(train)} examples of {train.name}')
    labels = (
      SourceLabels(train, threads=data.label_threads) if train_labels is None else train_labels
    )
    choices = [  # (classes, most shots) for each seed
      choose_shots(labels, max(few.shots), seed, train.classes, max_reads=few.max_reads)
      for seed in range(few.seeds)
    ]
    self.chosen = np.unique(choices)
    """Positions in `train` of all chosen images, ascending."""
    # Rows of each choice among them: (seeds, classes · shots), by shots.
    self._rows = {
      shots: np.searchsorted(self.chosen, np.stack(choices)[:, :, :shots]).reshape(few.seeds, -1)
      for shots in few.shots
    }
    self._few, self._mesh, self._test = few, mesh, test
    self._train = subset(train, self.chosen)

    def batches(source: Source) -> Iterable[Batch]:
      size = meshes.batch_for(mesh, len(source), batch_size)
      found = pipeline.eval_batches(
        source, data, image_size=config.image_size, batch_size=size, process=process
      )
      what = f'images of {source.name}'
      return progress(found, size, len(source), what) if progress else found

    self._batches = batches
    self._feature_step = make_feature_step(config, mesh, [LAYER])

    def solve_all(x_UC, label_U, mask_U, rows_Sn):
      one = lambda row_n: solve(
        x_UC[row_n], label_U[row_n], mask_U[row_n], few.l2, few.constant,
        num_classes=len(train.classes),
      )  # fmt: skip
      return jax.vmap(one)(rows_Sn)

    def test_step(params, classifiers, batch):
      x_BC = pooled_features(config, params, batch, [LAYER])[LAYER]
      # One at a time: all at once would need P copies of the whitened features.
      found_PB = jax.lax.map(lambda one: jnp.argmax(scores(one, x_BC), axis=-1), classifiers)
      mask = batch['mask']
      return jnp.sum((found_PB == batch['label']) & mask, axis=1), jnp.sum(mask)

    everywhere = meshes.replicated(mesh)
    self._solve = jax.jit(solve_all, out_shardings=everywhere)  # one program per number of shots
    self._test_step = jax.jit(test_step, out_shardings=everywhere)

  def classifiers(self, params: dict) -> Classifiers:
    """Return the solutions for these parameters, on the mesh: by shots, then by seed."""
    train = gather(
      self._feature_step, params, self._batches(self._train), self._mesh, size=len(self._train)
    )
    if not train.mask.any():
      raise UserError(f'few-shot: none of the images of {self._train.name} decodes')
    place = lambda array: put(array, meshes.replicated(self._mesh))
    known = place(train.layers[LAYER]), place(train.labels), place(train.mask)
    # Numbers of shots differ in shape, so each is a program; their seeds are solved at once.
    solved = [self._solve(*known, place(rows)) for rows in self._rows.values()]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *solved)

  def accuracies(self, params: dict) -> np.ndarray:
    """Return the percentage of the decoded test images that is right, (shots, seeds).

    Raises:
      UserError: no image of a split decodes.
    """
    classifiers = self.classifiers(params)
    step = lambda batch: self._test_step(params, classifiers, meshes.put(self._mesh, batch))
    counts = list(pipelined(step, self._batches(self._test)))
    examples = sum(int(number) for _, number in counts)
    if not examples:
      raise UserError(f'few-shot: none of the images of {self._test.name} decodes')
    hits = np.sum([hit for hit, _ in counts], axis=0)
    return (100 * hits / examples).reshape(len(self._few.shots), self._few.seeds)

  def by_shots(self, params: dict) -> dict[int, MeanDeviation]:
    """Return shots -> accuracy in percent, mean and sample deviation over seeds.

    Args:
      params: on the mesh, from `meshes.put_replicated` or a training state.
    """
    rows = self.accuracies(params).tolist()
    return {n: mean_deviation(row) for n, row in zip(self._few.shots, rows, strict=True)}

  def __call__(self, params: dict) -> dict[str, float]:
    """Return `by_shots` as numbers for a log; see `named`."""
    return named(self.by_shots(params))


def named(by_shots: dict[int, MeanDeviation]) -> dict[str, float]:
  """Return {'5-shot': percent, '5-shot_deviation': …}; one seed has no deviation, and no entry."""
  numbers = {}
  for shots, (mean, deviation) in by_shots.items():
    numbers[f'{shots}-shot'] = mean
    if deviation is not None:
      numbers[f'{shots}-shot_deviation'] = deviation
  return numbers
