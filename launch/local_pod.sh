#!/usr/bin/env bash
# A pod on one machine: N processes of D virtual CPU devices each. A supervisor starts all of them
# again after a failure, but not after bad input (2). Its exit code is the run's.
# Usage: launch/local_pod.sh N D COMMAND [FLAGS…]
#   PYTHON              interpreter (.venv/bin/python)
#   MIXER_JAX_RESTARTS  maximum number of restarts (10)
#   MIXER_JAX_BACKOFF   seconds before the first restart (1); doubled each time, at most 60
set -u
if [[ $# -lt 3 || ! $1 =~ ^[1-9][0-9]*$ || ! $2 =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2,7s/^# //p' "$0" >&2
  exit 2
fi
processes=$1 devices=$2
shift 2
python=${PYTHON:-$(dirname "$0")/../.venv/bin/python}
if ! command -v "$python" >/dev/null; then
  echo "local_pod.sh: no $python: run 'make .venv', or set PYTHON to an interpreter with mixer_jax" >&2
  exit 2
fi
restarts=${MIXER_JAX_RESTARTS:-10}
backoff=${MIXER_JAX_BACKOFF:-1}
find_port='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'

pids=()
stop_signal=''

signal_all() {
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do kill "-$1" "$pid" 2>/dev/null; done
}

forward() {
  stop_signal=$1
  signal_all "$1"
}
trap 'forward TERM' TERM
trap 'forward INT' INT
trap 'signal_all KILL' EXIT

start_all() {
  local index port
  port=$("$python" -c "$find_port") || exit 2
  for ((index = 0; index < processes; index++)); do
    MIXER_JAX_COORDINATOR=127.0.0.1:$port MIXER_JAX_NUM_PROCESSES=$processes \
      MIXER_JAX_PROCESS_ID=$index JAX_PLATFORMS=cpu \
      XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices" \
      "$python" -m mixer_jax "$@" &
    pids+=("$!")
  done
}

# Waits for all processes; $code is that of the first one that failed, or 0, and $failed its number.
# After bad input (2), a process that did not come (69) or a preemption (75), which all processes
# notice, the others have ten seconds to exit. Then they are killed, since a process that hangs
# reacts to nothing else.
wait_all() {
  local pid left patience=50 all=("${pids[@]}") index
  code=0
  while ((${#pids[@]})); do
    left=()
    for pid in "${pids[@]}"; do
      if kill -0 "$pid" 2>/dev/null; then
        left+=("$pid")
      else
        wait "$pid" 2>/dev/null # hides the shell's message about killed processes
        local own=$?
        if ((own && ! code)); then
          code=$own
          for index in "${!all[@]}"; do [[ ${all[index]} != "$pid" ]] || failed=$index; done
        fi
      fi
    done
    pids=(${left[@]+"${left[@]}"})
    if ((code && ${#pids[@]})); then
      ((code == 2 || code == 69 || code == 75)) || patience=0
      ((patience--)) || true
      ((patience > 0)) || signal_all KILL
    fi
    sleep 0.2
  done
}

for ((attempt = 0; ; attempt++)); do
  start_all "$@"
  wait_all
  if ((code == 0 || code == 2 || attempt >= restarts)) || [[ -n $stop_signal ]]; then
    exit "$code"
  fi
  echo "local_pod: process $failed exited with code $code: restarting all $processes in $backoff s" >&2
  sleep "$backoff"
  [[ -z $stop_signal ]] || exit "$code"
  backoff=$((backoff * 2 > 60 ? 60 : backoff * 2))
done
