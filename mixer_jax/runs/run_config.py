"""The typed config of a training run, and everything that is checked without data or devices.

`RunConfig.from_fields` makes it from the plain fields of a config file (see configs/common.py) or
of a `config.json`. Each field says in its metadata what values it takes (`at_least`, `at_most`,
`choices`) and whether runs that differ in it compute different results (`affects_result`).
"""

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any

from mixer_jax.data import recipes
from mixer_jax.data.data_config import DataConfig
from mixer_jax.errors import UserError
from mixer_jax.evaluation.fewshot import FewShotConfig
from mixer_jax.parallel.processes import ProcessesConfig
from mixer_jax.runs.fields import build, checked, parse_numbers, plain
from mixer_jax.training.early_stopping import EarlyStoppingConfig
from mixer_jax.training.losses import get_loss
from mixer_jax.training.mixup import MixupConfig
from mixer_jax.training.optimizer import OptimizerConfig

_MOST = 2**31 - 1  # steps and seeds are int32 on the device


_WATCHED = types.MappingProxyType({'affects_result': False})
"""Metadata of a field that changes how a run is watched, kept or placed, not what it computes."""
_DECIDES = types.MappingProxyType({'affects_result': False, 'decides_best': True})
"""Likewise, unless evaluations decide which state is the best."""


def _whole(at_least: int, metadata: Mapping[str, Any] = types.MappingProxyType({})) -> dict:
  """Return the metadata of a whole number."""
  return {'at_least': at_least, 'at_most': _MOST, **metadata}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices per axis of the mesh; one may be -1 for the rest.

  Attributes:
    data: split the batch.
    fsdp: split the batch, the parameters and the optimizer's moments.
    model: split the hidden width of the MLPs.
  """

  data: int
  fsdp: int
  model: int

  def __post_init__(self):
    for name, size in vars(self).items():
      if type(size) is not int:
        raise UserError(f'config.mesh.{name} must be a whole number, is {size!r}')

  def sizes(self) -> dict[str, int]:
    """Return axis -> devices, the arguments of `parallel.mesh.make_mesh`."""
    return dict(vars(self))


@dataclasses.dataclass(frozen=True)
class FewShotFields:
  """Few-shot accuracy as a part of a run's evaluations.

  Attributes:
    every: each n-th evaluation has it, and so has the final report; 0: never.
    name: data set, as `DataConfig.name` with the same `data_dir`; '': that of the run.
    train_split, eval_split: where the few images are from, and what they are tested on; a
      `train_split` '' is that of `fewshot.authors_split`.
    shots, seeds, l2, constant, max_reads: see `FewShotConfig`.
    recipe, crop_fraction: see `recipes.eval_image`; '': those of `DataConfig`.
  """

  every: int
  name: str
  train_split: str
  eval_split: str
  shots: tuple[int, ...]
  seeds: int
  l2: float
  constant: float
  max_reads: int
  recipe: str = ''
  crop_fraction: float = 0.875

  def __post_init__(self):
    if type(self.every) is not int or self.every < 0:
      raise UserError(
        f'config.fewshot.every must be a whole number, 0 for never, is {self.every!r}'
      )
    shots = parse_numbers('config.fewshot.shots', self.shots, int)
    object.__setattr__(self, 'shots', shots)
    recipes.check(self.recipe or 'resize-crop', self.crop_fraction, 'fewshot.')
    self.config()

  def read_as(self, data: DataConfig) -> DataConfig:
    """Return the config with the recipe of few-shot evaluation."""
    if not self.recipe:
      return data
    return dataclasses.replace(data, eval_recipe=self.recipe, eval_crop_fraction=self.crop_fraction)

  def config(self) -> FewShotConfig:
    """Return the settings of the regression; raises `UserError` for values that it refuses."""
    return FewShotConfig(self.shots, self.seeds, self.l2, self.constant, self.max_reads)


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """A training run; configs/common.py explains every field.

  Attributes:
    init_blocks: blocks of `init_from` that stay; (): all.
    model: the fields of the model that the config sets. With `init_from` the others are those
      of the checkpoint.
    evals: name -> fields of a further evaluation, see `runs.evaluators`.
  """

  seed: int = dataclasses.field(metadata=_whole(0))
  total_steps: int = dataclasses.field(metadata=_whole(1))
  total_epochs: float = dataclasses.field(metadata={'at_least': 0})
  batch_size: int = dataclasses.field(metadata=_whole(1))
  eval_batch_size: int = dataclasses.field(metadata=_whole(0, _WATCHED))
  accumulate: int = dataclasses.field(metadata=_whole(1))
  loss: str
  mixup: MixupConfig
  init_from: str
  init_head: str = dataclasses.field(metadata={'choices': ('zero', 'keep')})
  init_blocks: tuple[int, ...]
  log_every: int = dataclasses.field(metadata=_whole(1, _WATCHED))
  eval_every: int = dataclasses.field(metadata=_whole(0, _DECIDES))
  checkpoint_every: int = dataclasses.field(metadata=_whole(0, _WATCHED))
  keep_checkpoints: int = dataclasses.field(metadata=_whole(1, _WATCHED))
  keep_best: bool
  tensorboard: bool = dataclasses.field(metadata=_WATCHED)
  early_stopping: EarlyStoppingConfig
  fewshot: FewShotFields = dataclasses.field(metadata=_DECIDES)
  model: Mapping[str, Any]
  data: DataConfig
  optimizer: OptimizerConfig
  processes: ProcessesConfig = dataclasses.field(metadata=_WATCHED)
  mesh: MeshConfig = dataclasses.field(metadata=_WATCHED)
  evals: Mapping[str, Mapping[str, Any]] = dataclasses.field(
    default_factory=lambda: types.MappingProxyType({}), metadata=_DECIDES
  )

  def __post_init__(self):
    for field in dataclasses.fields(self):
      _check(f'config.{field.name}', getattr(self, field.name), field)
    if not self.init_from and (self.init_head == 'keep' or self.init_blocks):
      raise UserError('config.init_head and config.init_blocks need a checkpoint: set init_from')
    get_loss(self.loss)

  @classmethod
  def from_fields(cls, fields: Mapping[str, Any]) -> 'RunConfig':
    """Return the config with these fields, nested as in configs/common.py.

    Lists may be strings, '1,5', as on the command line and in `config.json`.

    Raises:
      UserError: a field is missing, unknown or has a wrong value.
    """
    fields = checked('config', fields)
    known = {field.name: field for field in dataclasses.fields(cls)}
    for name in (*known, 'mixup_per'):
      if name not in fields and name not in _OPTIONAL:
        raise UserError(f'the config has no field {name!r}: begin with configs/common.py')
    unknown = sorted(set(fields) - {*known, 'mixup_per'})
    if unknown:
      raise UserError(f'the config has unknown fields: {", ".join(unknown)}')
    values = {name: fields[name] for name in known if name in fields}
    mixup = {'alpha': fields['mixup'], 'per': fields['mixup_per']}
    values['mixup'] = build(MixupConfig, mixup, 'mixup')
    values['init_blocks'] = _numbers('config.init_blocks', fields['init_blocks'], int)
    optimizer = values['optimizer']
    if isinstance(optimizer, Mapping) and 'decay_at' in optimizer:
      shares = _numbers('config.optimizer.decay_at', optimizer['decay_at'], float)
      values['optimizer'] = {**optimizer, 'decay_at': shares}
    for name, value in values.items():
      kind = known[name].type
      if isinstance(kind, type) and dataclasses.is_dataclass(kind) and name != 'mixup':
        values[name] = build(kind, value, name)
    for name in ('model', 'evals'):
      values[name] = _frozen(f'config.{name}', values.get(name, {}))
    for name, row in values['evals'].items():
      _frozen(f'config.evals.{name}', row)
    return cls(**values)

  def to_fields(self) -> dict[str, Any]:
    """Return the fields as `from_fields` takes them and `config.json` holds them; a fresh copy."""
    fields = {}
    for name, value in vars(self).items():
      fields[name] = plain(vars(value) if dataclasses.is_dataclass(value) else value)
    fields |= {'mixup': self.mixup.alpha, 'mixup_per': self.mixup.per}
    for name in _OPTIONAL:
      if not fields[name]:
        del fields[name]
    return fields

  def with_fields(self, changes: Mapping[str, Any]) -> 'RunConfig':
    """Return a copy with other values: {'data.train_split': 'train', 'seed': 3}.

    Raises:
      UserError: as `from_fields`.
    """
    fields = self.to_fields()
    for name, value in changes.items():
      *groups, last = name.split('.')
      node: Any = fields
      for group in groups:
        node = node.get(group)
        if not isinstance(node, dict):
          raise UserError(f'the config has no field {name!r}')
      node[last] = value
    return type(self).from_fields(fields)

  @property
  def keeps_best(self) -> bool:
    """True if the state of the best evaluation is kept, and the run reported by it."""
    return self.keep_best or self.early_stopping.patience > 0

  def steps_for(self, examples: int) -> int:
    """Return the updates of a run on a training split of this size.

    Raises:
      UserError: there are too many.
    """
    if not self.total_epochs:
      return self.total_steps
    steps = max(round(self.total_epochs * examples / self.batch_size), 1)
    if steps > _MOST:
      raise UserError(f'config.total_epochs makes {steps:,} steps: they must be below 2^31')
    return steps


_OPTIONAL = ('evals',)  # configs and runs of earlier versions do not have them


def affects_result(name: str, *, keeps_best: bool) -> bool:
  """Return True if two configs that differ in this field (dotted) describe different runs.

  Args:
    keeps_best: evaluations decide which state is the best, and when to stop.
  """
  cls: Any = RunConfig
  for part in name.split('.'):
    found = [field for field in dataclasses.fields(cls) if field.name == part]
    if not found:
      return True
    metadata = found[0].metadata
    if not metadata.get('affects_result', True):
      return keeps_best and metadata.get('decides_best', False)
    cls = found[0].type
    if not dataclasses.is_dataclass(cls):
      return True
  return True


def normalized(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Return stored fields in the spelling of `to_fields`, so that they can be compared.

  What cannot be read any more stays as it is.
  """
  try:
    return RunConfig.from_fields(fields).to_fields()
  except UserError:
    return plain(fields)


def _numbers(name: str, value: Any, kind: type[int] | type[float]) -> tuple[Any, ...]:
  """Return the numbers of a list that may be empty."""
  return () if value in ('', (), []) else parse_numbers(name, value, kind)


def _frozen(name: str, value: Any) -> Any:
  """Return nested groups as read-only mappings."""
  if not isinstance(value, Mapping):
    raise UserError(f'{name} is a group of fields, not {value!r}')
  freeze = lambda key, item: _frozen(f'{name}.{key}', item) if isinstance(item, Mapping) else item
  return types.MappingProxyType({key: freeze(key, item) for key, item in value.items()})


def _check(name: str, value: Any, field: dataclasses.Field) -> None:
  """Raises `UserError` unless the value has the type of its field and lies in its bounds."""
  least, most = field.metadata.get('at_least', -math.inf), field.metadata.get('at_most', math.inf)
  if field.type is int and (type(value) is not int or not least <= value <= most):
    raise UserError(f'{name} must be a whole number, at least {least} and below 2^31, is {value!r}')
  if field.type is float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value < math.inf:
      raise UserError(f'{name} must be {least} or more, is {value!r}')
  if field.type is bool and type(value) is not bool:
    raise UserError(f'{name} must be true or false, is {value!r}')
  if field.type is str and type(value) is not str:
    raise UserError(f'{name} must be a string, is {value!r}')
  choices = field.metadata.get('choices')
  if choices and value not in choices:
    raise UserError(f'{name} must be {" or ".join(map(repr, choices))}, not {value!r}')
