"""The table of shardings: a row for each kind of parameter, whatever the family."""

import optax

from mixer_jax import models
from mixer_jax.parallel import mesh as meshes
from mixer_jax.planning.sharding_table import as_text, sharding_table

MESH = meshes.abstract_mesh(8, 1, 4, 2)


def test_a_resnet_has_a_row_for_each_kind_of_parameter():
  table = sharding_table(models.ResNetConfig(), optax.sgd(0.1, momentum=0.9), MESH)
  names = [kind.name for kind in table.kinds]
  assert len(names) == len(set(names)) == 15
  assert 'ResNetBlock_*/Conv_1/kernel' in names
  line = next(line for line in as_text(table).splitlines() if 'ResNetBlock_*/Conv_1' in line)
  assert '3 × 3 × 64–512 × 64–512' in line
  assert '3 × 3 × 64–512 × 16–128 per device' in line
  assert table.sums['parameters'].whole == 4 * models.num_params(models.ResNetConfig())
  assert table.sums['optimizer'].whole == table.sums['parameters'].whole + 4  # and the step


def test_a_mixer_has_one_too():
  table = sharding_table(models.VARIANTS['B/16'], optax.adam(1e-3), MESH)
  kinds = {kind.name: kind for kind in table.kinds}
  assert len(kinds) == 18
  kind = kinds['MixerBlock_*/channel_mixing/Dense_0/kernel']
  assert (kind.shapes, kind.shards) == (((768, 3072),), ((192, 1536),))
