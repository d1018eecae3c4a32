"""Collectives of programs whose communication is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from mixer_jax.parallel import mesh as meshes
from mixer_jax.planning.collectives import collectives, loops

SHAPE = (8, 16)
BYTES = 4 * 8 * 16


def hlo(function, out_specs) -> str:
  """HLO text of a function of one f32[8,16], on eight devices."""
  mesh = meshes.make_mesh()
  mapped = jax.shard_map(
    function, mesh=mesh, in_specs=P('data'), out_specs=out_specs, check_vma=False
  )
  text = jax.jit(mapped).lower(np.zeros(SHAPE, np.float32)).compile().as_text()
  assert text
  return text


@pytest.mark.parametrize(
  ('function', 'out', 'wanted'),
  [
    (lambda x: jax.lax.psum(x, 'data'), P(), {'all-reduce': (1, BYTES // 8)}),
    (lambda x: jax.lax.all_gather(x, 'data'), P(), {'all-gather': (1, BYTES)}),
    (
      lambda x: jax.lax.all_to_all(x.reshape(8, 2), 'data', 0, 0),
      P('data'),
      {'all-to-all': (1, BYTES // 8)},
    ),
    (
      lambda x: jax.lax.ppermute(x, 'data', [(i, (i + 1) % 8) for i in range(8)]),
      P('data'),
      {'collective-permute': (1, BYTES // 8)},
    ),
    (
      lambda x: jax.lax.psum_scatter(jnp.tile(x, (8, 1)), 'data', tiled=True),
      P('data'),
      {'reduce-scatter': (1, BYTES // 8)},
    ),
    (lambda x: x + 1, P('data'), {}),
  ],
)
def test_kind_and_bytes(function, out, wanted):
  found = collectives(hlo(function, out))
  assert {kind: (row['count'], row['bytes']) for kind, row in found.items()} == wanted


def test_collectives_in_a_loop_count_as_often_as_it_runs():
  def function(x):
    turn = lambda total, _: (total + jax.lax.psum(jnp.sin(total), 'data'), None)
    return jax.lax.scan(turn, x, None, length=5)[0]

  text = hlo(function, P())
  assert collectives(text) == {'all-reduce': {'count': 5, 'bytes': 5 * BYTES // 8}}
  assert 5 in loops(text)
  assert loops(hlo(lambda x: x, P('data'))) == set()


TPU = """
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (p: bf16[4,8]) -> f32[2] {
  %p = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %g = (bf16[4,8]{1,0}, bf16[8,8]{1,0}) all-gather-start(%p), dimensions={0}
  %d = bf16[8,8]{1,0:T(8,128)(2,1)S(1)} all-gather-done(%g)
  %r = (bf16[4,8]{1,0:T(8,128)}, /*index=1*/f32[3]{0}, pred[5]{0}) all-reduce(%p), to_apply=%add
  ROOT %all-reduce-like = f32[2]{0} fusion(%r), kind=kLoop, calls=%add
}
"""


LOOP = """
%condition (p: (s32[], f32[4])) -> pred[] {
  %limit = s32[]{:T(256)} constant(6)
  %p = (s32[]{:T(256)}, f32[4]{0:T(256)}) parameter(0)
  %i = s32[]{:T(256)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(1024)} compare(%i, %limit), direction=LT
}

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %r = f32[4]{0:T(256)} all-reduce(%x), to_apply=%add
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %loop = (s32[]{:T(256)}, f32[4]{0:T(256)}) while(%init), condition=%condition, body=%body
}
"""


def test_a_loop_in_the_text_of_the_tpu_compiler():
  assert collectives(LOOP) == {'all-reduce': {'count': 6, 'bytes': 6 * 16}}
  assert loops(LOOP) == {6}


def test_tuples_tiles_and_asynchronous_collectives():
  assert collectives(TPU) == {
    'all-gather': {'count': 1, 'bytes': 8 * 8 * 2},
    'all-reduce': {'count': 1, 'bytes': 4 * 8 * 2 + 3 * 4 + 5},
  }
