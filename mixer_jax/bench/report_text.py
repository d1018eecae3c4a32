"""The report of a benchmark as text."""

from typing import Any

from mixer_jax.pictures.text_tables import aligned, binary_size

Row = dict[str, Any]


def heading(report: Row) -> str:
  """Return the lines that name the model, the devices and their peak."""
  lines = [
    f'{report["model"]}, {report["num_parameters"]:,} parameters, {report["image_size"]} px, '
    f'{report["num_classes"]:,} classes, {report["dtype"]}, on {report["devices"]} × '
    f'{report["device"]}'
  ]
  if report['peak_flops_per_second']:
    lines.append(f'peak per device: {report["peak_flops_per_second"] / 1e12:,.4g} TFLOP/s')
  else:
    lines.append(
      f'the peak of {report["device"]} in {report["dtype"]} is not known (--peak sets it): '
      'no MFU, only the share of the rate of a plain matrix multiply'
    )
  return '\n'.join(lines)


def part(name: str, row: Row) -> str:
  """Return the lines of one part."""
  if 'step_seconds' in row:
    return _program(name, row)
  return f'{name:10} {_TEXTS[name](row)}'


def _program(name: str, row: Row) -> str:
  low, high = row['step_seconds_range']
  flops, size = row['flops'], row['batch_size']
  seconds = row['compile_seconds']
  cached = seconds['cached']
  cache = 'not cached' if cached is None else f'{cached:.1f} s from the cache'
  mfu = f'MFU {100 * row["mfu"]:.1f} %, ' if row['mfu'] else ''
  return '\n'.join(
    [
      f'{name:10} {_rate(row["images_per_second"])} images/s, '
      f'{_rate(row["images_per_second_per_device"])} per device, in batches of {size:,}; '
      f'{_time(row["step_seconds"])} per batch ({_time(low)} to {_time(high)})',
      f'{"":10} {mfu}{100 * row["share_of_multiply"]:.1f} % of the rate of a plain multiply, '
      f'{row["multiply_flops_per_second"] / 1e12:,.3g} TFLOP/s; '
      f'{flops["model"] / size / 1e9:,.4g} GFLOP per image, '
      f'{flops["compiler"] / size / 1e9:,.4g} by the compiler',
      f'{"":10} {binary_size(row["program_bytes_per_device"])} per device, peak so far '
      f'{binary_size(row["peak_bytes"])} on the {row["peak_bytes_of"]}; traced in '
      f'{seconds["trace"]:.1f} s, compiled in {seconds["cold"]:.1f} s, {cache}',
    ]
  )


def _loop(row: Row) -> str:
  return (
    f'{_rate(row["images_per_second"])} images/s in batches of {row["batch_size"]:,}: '
    f'{100 * row["share_of_step"]:.1f} % of the bare step ({_time(row["bare_step_seconds"])}), '
    f'{100 * row["share_with_saves"]:.1f} % with one save per minute, which costs '
    f'{_time(row["save_seconds"])}'
  )


def _input(row: Row) -> str:
  lines = [
    f'{_rate(row["images_per_second"])} images/s for training, '
    f'{_rate(row["evaluation_images_per_second"])} for evaluation, of {row["images"]}, '
    f'on {row["cores"]} cores, with data.workers={row["workers"]} and data.threads={row["threads"]}'
  ]
  header = ('workers', 'threads', 'images/s', 'CPU ms/image', 'of them in the feeding process')
  cells = [
    (
      str(one['workers']),
      str(one['threads']),
      _rate(one['images_per_second']),
      _milliseconds(one['cpu_seconds_per_image']),
      _milliseconds(one['feeding_seconds_per_image']),
    )
    for one in row['scaling']
  ]
  lines += aligned(header, cells, left=0).splitlines()
  if row['cpu_seconds_per_image'] is None:
    lines.append('the CPU time of worker processes is known on Linux only')
    return f'\n{"":11}'.join(lines)
  needed = ', '.join(
    f'{int(rate):,} ({f"{count:,.1f}" if count else "never"})'
    for rate, count in row['cores_needed'].items()
  )
  lines += [
    f'n such cores ({row["cpu"]}): the lower of n × {_rate(row["images_per_second_per_core"])} and '
    f'{_rate(row["most_images_per_second"])} images/s; on these {row["cores"]} it was '
    f'{100 * row["share_of_expected"]:.0f} % of that',
    f'images/s (cores needed): {needed}',
  ]
  return f'\n{"":11}'.join(lines)


def _rate(value: float) -> str:
  return f'{value:,.0f}' if value >= 1000 else f'{value:.4g}'


def _milliseconds(seconds: float | None) -> str:
  return '' if seconds is None else f'{1000 * seconds:.3g}'


def _evaluate(row: Row) -> str:
  read, both = row['input_images_per_second'], row['share_of_both']
  shared = f'; {100 * both:.1f} % of both in sequence, as they share the cores' if both else ''
  return (
    f'{_rate(row["images_per_second"])} images/s of {row["images"]}, in batches of '
    f'{row["batch_size"]:,}: {100 * row["share_of_slower"]:.1f} % of the slower of forward '
    f'({_rate(row["forward_images_per_second"])}) and input ({_rate(read) if read else "none"})'
    f'{shared}'
  )


def _checkpoint(row: Row) -> str:
  return (
    f'{binary_size(row["bytes"])}: a save blocks for {_time(row["blocked_seconds"])}, the first '
    f'one for {_time(row["first_blocked_seconds"])}; written in {_time(row["written_seconds"])}, '
    f'restored in {_time(row["restored_seconds"])}'
  )


_TEXTS = {'loop': _loop, 'input': _input, 'evaluate': _evaluate, 'checkpoint': _checkpoint}


def _time(seconds: float) -> str:
  return f'{seconds:,.3g} s' if seconds >= 1 else f'{1000 * seconds:,.3g} ms'
