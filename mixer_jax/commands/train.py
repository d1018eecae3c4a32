"""`mixer-jax train`: pre-train or fine-tune; the same command again goes on."""

from mixer_jax.commands import flags
from mixer_jax.errors import PreemptedError
from mixer_jax.paths import user_path
from mixer_jax.runlog.startup import Startup


def main(argv: list[str]) -> None:
  """Flags and config in, a trained state in the workdir out."""
  startup = Startup()
  parser = flags.Parser('train', __doc__ or '')
  parser.add_config(required=True)
  parser.add_argument('--workdir', required=True, help='folder of the run, local or gs://…')
  args, overrides = parser.parse(argv)
  # Seconds, that --help and a wrong flag need not wait for.
  from mixer_jax.parallel import processes
  from mixer_jax.runlog import console
  from mixer_jax.runs import config_file, experiment, training_run

  startup.mark('imports')
  console.setup_console()
  config = config_file.load_config(args.config, overrides)
  experiment.join_processes('train', args, config, preemptible=True)
  startup.mark('devices')
  try:
    training_run.run(config, str(user_path(args.workdir)), startup)
  except PreemptedError:
    processes.leave_together()
    raise
