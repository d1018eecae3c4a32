"""`mixer-jax train`: pre-train or fine-tune; the same command again resumes."""

from mixer_jax.commands import flags
from mixer_jax.errors import PreemptedError
from mixer_jax.paths import user_path
from mixer_jax.runlog.startup import Startup


def main(argv: list[str]) -> None:
  """Trains the run of a config in the workdir."""
  startup = Startup()
  parser = flags.Parser('train', __doc__ or '')
  parser.add_config(required=True, lists_fields=True)
  parser.add_argument('--workdir', required=True, help='folder of the run, local or gs://…')
  parser.add_argument(
    '--check', action='store_true', help='check the config and the workdir, without data, and exit'
  )
  args, overrides = parser.parse(argv)
  # These take seconds, which --help and a wrong flag need not wait for.
  from mixer_jax.parallel import processes
  from mixer_jax.runlog import console
  from mixer_jax.runs import pod, training_run
  from mixer_jax.runs.config_file import load_config
  from mixer_jax.runs.run_config import RunConfig
  from mixer_jax.runs.workdir import check_stored

  startup.mark('imports')
  console.setup_console()
  config = RunConfig.from_fields(load_config(args.config, overrides))
  if args.check:
    check_stored(user_path(args.workdir), config)
    return
  settings = pod.settings_of(vars(args), config.to_fields())
  pod.join('train', settings, config.processes, preemptible=True)
  startup.mark('devices')
  try:
    training_run.train(config, args.workdir, startup=startup)
  except PreemptedError:
    processes.leave_together()
    raise
