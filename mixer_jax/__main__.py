"""`mixer-jax COMMAND` = `python -m mixer_jax COMMAND`."""

import errno
import importlib
import os
import signal
import sys
import traceback

import mixer_jax
from mixer_jax import hardware
from mixer_jax.errors import (
  RESUMES,
  ApartError,
  DoesNotFitError,
  PreemptedError,
  StorageError,
  UserError,
  one_line,
  printable,
)
from mixer_jax.runlog import streams
from mixer_jax.storage import PLACE_IS_WRONG, as_os_error, reason

COMMANDS = {
  'train': 'pre-train or fine-tune a model; the same command resumes an unfinished run',
  'evaluate': 'accuracy of a checkpoint on a complete split',
  'predict': 'predictions of a checkpoint for image files',
  'fewshot': 'accuracy of ridge regression on the features of a few images per class',
  'probe': 'accuracy of a linear classifier on the output of each block',
  'cka': 'similarity (CKA) of the layers of one or two checkpoints',
  'identify': 'how often the most similar block of another checkpoint is at the same depth',
  'cka-study': 'CKA, identification and probes across depths, widths, seeds and data sets',
  'transfer': 'fine-tune a checkpoint to the tasks of VTAB-1k or Avg 5 and compare with the paper',
  'permute': 'accuracy of a Mixer, a ViT and a ResNet on shuffled pixels: runs, a table and curves',
  'scaling': 'accuracy against the number of training images: runs, a table and curves',
  'sweep': 'an experiment with each value of one or two fields: runs, a table and the best value',
  'report': "runs and studies on one HTML page, next to the paper's figures",
  'prune': 'accuracy of a model without some of its blocks, before and after more training',
  'weights': 'pictures of the weights of token mixing, position embeddings and the stem',
  'attention': 'how far each head of attention looks, by depth',
  'convert': 'write a checkpoint as a weights file: .npz, or .safetensors for timm',
  'inspect': 'layout, variant, sizes and largest arrays of a checkpoint',
  'shardings': 'sharding of each array of a training state, and bytes per device',
  'data': 'prepare a data set, check its records, or show them as training sees them',
  'plan': 'memory, time and cost of a run on a TPU slice, compiled without a TPU',
  'bench': 'speed of a model on this machine: images/s, share of the peak, memory, start-up',
  'models': "the paper's variants, and the published files",
}

RESUMABLE = ('train', 'transfer', 'permute', 'scaling', 'sweep', 'prune', 'cka-study')
"""Commands that continue where they stopped when they are run again."""

# The user can act on these; any other OSError is a bug of this package.
_REFUSALS = PLACE_IS_WRONG - {errno.EINVAL}
_PASSING = {
  errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE,
}  # fmt: skip
_UNREACHED = {
  errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT,
}  # fmt: skip


def _usage() -> str:
  lines = [f'  {name:10} {text}' for name, text in COMMANDS.items()]
  more = 'mixer-jax COMMAND --help explains the flags of a command.'
  return '\n'.join(['usage: mixer-jax COMMAND [FLAGS…]', '', *lines, '', more])


def main(argv: list[str] | None = None) -> int:
  """Run one command and return its exit code.

  0: done. 2: bad input, reported in one line. 3: the planned program does not fit. 69: the
  processes of a pod could not connect. 74: a file could not be read or written now, or the network
  does not answer. 75: asked to stop. 130: interrupted.
  """
  argv = sys.argv[1:] if argv is None else argv
  try:
    try:
      return _run(argv)
    finally:
      if sys.stdout:
        sys.stdout.flush()  # its errors are reported here, not by the interpreter at the end
  except ApartError as error:
    _report(str(error))
    return 69
  except StorageError as error:
    _report(str(error))
    return 74
  except DoesNotFitError as error:
    _report(str(error))
    return 3
  except UserError as error:
    return _report(str(error))
  except BrokenPipeError:  # the reader of our output has closed it
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 1
  except OSError as error:
    number = error.errno or 0
    if number in _UNREACHED or number < 0:  # below 0: a host has no address
      _report(f'the network does not answer: {error}; try again, or name a local path')
      return 74
    if number not in _REFUSALS | _PASSING:
      raise
    _report(f'{error.filename or "a file"}: {error.strerror}')
    return 74 if number in _PASSING else 2
  except PreemptedError as error:
    _report(f'{error}: its state is saved; run the same command again to resume')
    return 130 if isinstance(error, KeyboardInterrupt) else 75
  except KeyboardInterrupt:
    _report(_interrupted(argv))
    return 130
  except Exception as error:
    if _is_peer_lost(error):
      _report(f'another process of the pod is gone ({one_line(error)}): start all of them again')
      return 69
    failed = as_os_error(error)
    if failed is None:
      raise
    _report(f'a bucket does not answer: {reason(failed)}; try again')  # only its client's are left
    return 74


def _is_peer_lost(error: Exception) -> bool:
  if 'jax' not in sys.modules:
    return False
  from mixer_jax.parallel import processes

  return processes.is_peer_lost(error)


def _run(argv: list[str]) -> int:
  if not argv or argv[0] in ('-h', '--help'):
    print(_usage())
    return 0 if argv else 2
  if argv[0] == '--version':
    print(f'mixer_jax {mixer_jax.__version__}')
    return 0
  if argv[0] not in COMMANDS:
    return _report(f'no command {argv[0]!r}: there are {", ".join(COMMANDS)}')
  _choose_platforms()
  importlib.import_module(f'mixer_jax.commands.{argv[0].replace("-", "_")}').main(argv[1:])
  return 0


def _choose_platforms() -> None:
  """Set JAX_PLATFORMS for this command, unless it is set or JAX is imported already."""
  if 'jax' in sys.modules or os.environ.get('JAX_PLATFORMS'):
    return
  if platforms := hardware.jax_platforms():
    os.environ['JAX_PLATFORMS'] = platforms


def _interrupted(argv: list[str]) -> str:
  """Return the message after a Ctrl-C at which nothing was saved."""
  return 'interrupted' + (f'; {RESUMES}' if argv[:1] and argv[0] in RESUMABLE else '')


def _report(line: str) -> int:
  print(f'mixer-jax: {printable(line)}', file=sys.stderr)
  return 2


def entry() -> None:
  """Run as a program. After an error it exits at once, without waiting for threads."""

  def leave(*_):
    os.write(2, f'\nmixer-jax: {_interrupted(sys.argv[1:])}\n'.encode())
    os._exit(130)

  # Python's own handler raises inside imports and callbacks of libraries, which may swallow it.
  # A command that must finish something first installs that handler again.
  signal.signal(signal.SIGINT, leave)
  streams.open_streams(output_is_result=not {*sys.argv[1:2]} & {*RESUMABLE})
  try:
    code = main()
  except Exception:  # a bug of ours; other processes must not wait for this one
    traceback.print_exc()
    code = 1
  sys.stderr.flush()
  if code:
    os._exit(code)


if __name__ == '__main__':
  entry()
