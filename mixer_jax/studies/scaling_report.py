"""Table and picture of `mixer-jax scaling`, from what `scaling.json` holds."""

from collections.abc import Mapping
from typing import Any

from mixer_jax.pictures import comparisons, text_tables
from mixer_jax.pictures.text_tables import metric_title, with_deviation


def text(values: Mapping[str, Any]) -> str:
  """A line for each model and part."""
  header = ('model', 'part', 'images', 'best step', _title(values))
  rows = []
  for name, model in values.items():
    for percent, part in model['parts'].items():
      steps = ', '.join(str(run['best'] or run['ended']) for run in part['runs'])
      figure = with_deviation(part['mean'], part['deviation'])
      rows.append((name, f'{percent} %', f'{part["images"]:,}', steps, figure))
  return text_tables.aligned(header, rows)


def files(values: Mapping[str, Any]) -> dict[str, bytes]:
  """File name -> picture."""
  return {'scaling.png': picture(values)}


def picture(values: Mapping[str, Any]) -> bytes:
  """The metric against the number of training images, a line for each model."""
  lines = {
    f'{name}, {model["parameters"]:,} parameters': {
      part['images']: [run[model['metric']] for run in part['runs']]
      for part in model['parts'].values()
    }
    for name, model in values.items()
  }
  shares = {
    part['images']: f'{percent} %'
    for model in values.values()
    for percent, part in model['parts'].items()
  }
  return comparisons.scaling(lines, shares, _title(values))


def _title(values: Mapping[str, Any]) -> str:
  """Name, unit and data of the metric."""
  first = next(iter(values.values()))
  return f'{metric_title(first["metric"])} of {first["of"]}'
