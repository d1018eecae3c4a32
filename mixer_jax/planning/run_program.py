"""The program that a run compiles, from its config."""

from collections.abc import Sequence

import numpy as np

from mixer_jax.data.recipes import RECIPES
from mixer_jax.models import paper
from mixer_jax.parallel import mesh as meshes
from mixer_jax.planning import topologies
from mixer_jax.planning.compiler import Program
from mixer_jax.runs.data_splits import open_train
from mixer_jax.runs.evaluation_setup import check_recipe, eval_batch_size
from mixer_jax.runs.initial_model import model_of
from mixer_jax.runs.run_config import RunConfig


def program_of(config: RunConfig, topology: str) -> Program:
  """Return the program of a run on a slice such as 'v3:4x4'; see `programs_of`."""
  (program,) = programs_of(config, [topology])
  return program


def programs_of(config: RunConfig, names: Sequence[str]) -> list[Program]:
  """Return the program of a run on each of these slices.

  Opens the training data only if the config counts epochs of a data set of unknown size, and
  reads weights only if it starts from a checkpoint.

  Raises:
    UserError: there is no such slice, or the config does not fit it.
  """
  check_recipe(config.data)
  model = model_of(config)
  total_steps = config.total_steps
  if config.total_epochs:
    size = paper.IMAGES.get(config.data.name) or len(open_train(config.data))
    total_steps = config.steps_for(size)
  programs = []
  for name in names:
    topology = topologies.find(name)
    mesh = meshes.abstract_mesh(topology.devices, **config.mesh.sizes())
    meshes.check_batch(mesh, config.batch_size, config.accumulate)
    programs.append(
      Program(
        topology=topology.name,
        mesh=tuple(mesh.shape[axis] for axis in meshes.AXES),
        model=model,
        optimizer=config.optimizer,
        total_steps=total_steps,
        loss=config.loss,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        mixup=config.mixup,
        eval_batch_size=eval_batch_size(config, mesh),
        eval_level=np.dtype(RECIPES[config.data.eval_recipe].level).name,
      )
    )
  return programs
