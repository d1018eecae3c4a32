"""Table, conclusions and picture of `mixer-jax permute`, from what `permute.json` holds."""

from collections.abc import Mapping
from typing import Any

from mixer_jax.pictures import comparisons, text_tables
from mixer_jax.pictures.text_tables import with_deviation

_INPUTS = {
  'none': 'images as they are',
  'patches': 'patches and pixels in them shuffled',
  'pixels': 'all pixels shuffled',
}
_HEADER = ('model', 'input', 'top-1, %', 'lost, points', 'relative')


def text(values: Mapping[str, Any]) -> str:
  """Table and conclusions."""
  return table(values) + verdict(values)


def files(values: Mapping[str, Any]) -> dict[str, bytes]:
  """File name -> picture."""
  return {'permute.png': picture(values)}


def table(values: Mapping[str, Any]) -> str:
  """A line for each model and kind of input."""
  rows = []
  for name, model in values.items():
    for kind, outcome in model['inputs'].items():
      top1 = with_deviation(outcome['mean'], outcome['deviation'])
      lost = with_deviation(outcome['lost'], outcome['noise'])
      rows.append((name, _INPUTS[kind], top1, lost, _percent(outcome)))
  return text_tables.aligned(_HEADER, rows, left=2)


def verdict(values: Mapping[str, Any]) -> str:
  """Sentences that compare the runs with what section 3.4 says."""
  lines = []
  for name, model in values.items():
    patches = model['inputs']['patches']
    if patches['noise'] is not None:
      within = abs(patches['lost']) <= 2 * patches['noise']
      how = 'within' if within else 'beyond'
      lines.append(f'{name}: {_INPUTS["patches"]} differs {how} noise (two standard errors)')
  shuffled = {name: model['inputs']['pixels'] for name, model in values.items()}
  ranked = sorted(shuffled, key=lambda name: shuffled[name]['relative_loss'])
  least, *others = ranked
  line = f'all pixels shuffled: {least} loses the least, {_percent(shuffled[least])}'
  lines.append(line + ''.join(f', {other} {_percent(shuffled[other])}' for other in others))
  return ''.join(f'{line}\n' for line in lines)


def picture(values: Mapping[str, Any]) -> bytes:
  """Accuracy against the step: a panel for each model, a line for each kind of input."""
  panels = {
    f'{name}, {model["parameters"]:,} parameters': {
      _INPUTS[kind]: [
        {int(step): top1 for step, top1 in curve.items()} for curve in outcome['top1']
      ]
      for kind, outcome in model['inputs'].items()
    }
    for name, model in values.items()
  }
  data = next(iter(values.values()))['data']
  return comparisons.comparison(panels, f'top-1 of the evaluation split of {data}, %')


def _percent(outcome: Mapping[str, Any]) -> str:
  return f'{100 * outcome["relative_loss"]:.1f} %'
