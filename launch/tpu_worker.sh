#!/usr/bin/env bash
# Tasks that tpu_vm.sh runs on a worker, as `bash tpu_worker.sh TASK …` in its home folder, by ssh.
# A task prints one line, "@ HOST WORD …", and exits with 0: any other code is a failure of ssh. Each
# may run twice, since gcloud repeats a command after a broken connection.
set -u
# shellcheck source=launch/retry.sh
. "$(dirname "$0")/retry.sh"
code_dir=$HOME/mixer_jax
run_dir=$HOME/mixer_jax_run # newest (id of a run); ID.log, ID.pids, ID.code, ID.stop; two locks

not_ready='unset (run setup)' # tpu_vm.sh prints the same for a worker without this script

answer() { echo "@ $(hostname) $*"; }

# The processes of a run inherit its lock and hold it while any of them lives.
is_running() { ! flock -sn 9; } 9>>"$run_dir/lock"

newest() { cat "$run_dir/newest" 2>/dev/null; }

# A rebooted worker has lost its mounts.
boot() { cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo unknown; }

is_set_up() { [[ $(head -n 1 "$code_dir/.ready" 2>/dev/null) == "$(boot)" ]]; }

# Prints the processes that hold the chips or libtpu's lock.
tpu_holders() {
  sudo find /proc/[0-9]*/fd -maxdepth 1 \( -lname '/dev/accel*' -o -lname '/dev/vfio/[0-9]*' \
    -o -lname /tmp/libtpu_lockfile \) 2>/dev/null | cut -d/ -f3 | sort -u | tr '\n' ' '
}

# Prints HOST WORD [ID [CODE TIME]]. A run without a code was killed, or the worker rebooted.
worker_state() {
  local id word=ended running=''
  id=$(newest)
  is_running && running=1 # before reading the code, which is written under the lock
  [[ ! -e $run_dir/$id.stop ]] || word=stopped
  if [[ -n $id && -e $run_dir/$id.code ]]; then
    answer "$word $id $(<"$run_dir/$id.code")"
  elif [[ -n $running ]]; then
    answer "running $id"
  elif ! is_set_up; then
    answer "$not_ready"
  elif [[ -z $id ]]; then
    answer idle
  else
    answer "$word $id 137 9999999999"
  fi
}

worker_check() {
  local holders
  holders=$(tpu_holders)
  if is_running; then
    answer 'busy with another run: stop it, or use logs --follow'
  elif ! is_set_up; then
    answer "$not_ready"
  elif [[ -n $holders ]]; then
    answer "busy: the TPU is held by process ${holders% }"
  else
    answer "free $(tail -n +2 "$code_dir/.ready")"
  fi
}

worker_start() {
  local id=$1
  exec 9>>"$run_dir/lock"
  # It may have started, and even ended, before the connection broke.
  if [[ $(newest) != "$id" ]]; then
    flock -w 5 9 || {
      answer 'busy with another run'
      return
    }
    echo "$id" >"$run_dir/newest"
    # Left by a killed process or another user; worker_check has seen that nobody holds it.
    sudo rm -f /tmp/libtpu_lockfile
    trap '' HUP # ssh may disconnect before the run has its own session
    setsid bash "$0" supervise "$@" >"$run_dir/$id.log" 2>&1 </dev/null &
  fi
  answer started
}

# ID, the number of variables, NAME=VALUE…, the command. Runs in a session of its own, which a
# disconnect of ssh does not reach.
supervise() {
  local id=$1 pid
  shift
  cd "$code_dir" || exit
  trap : TERM # a shutdown signals all processes; the code of the run is still written
  env PYTHONUNBUFFERED=1 MIXER_JAX_PROFILES="$run_dir/$id.profiles" "${@:2:$1}" .venv/bin/python -m mixer_jax "${@:2+$1}" &
  pid=$!
  echo "$$ $pid" >"$run_dir/$id.pids"
  while kill -0 "$pid" 2>/dev/null; do wait "$pid"; done
  wait "$pid"
  echo "$? $(date +%s)" >"$run_dir/$id.new"
  mv "$run_dir/$id.new" "$run_dir/$id.code"
  kill -KILL 0 # this session, with all processes that the run has left: releases the lock
}

# Sends TERM to the run, or KILL to its session.
worker_signal() {
  local id leader pid
  id=$(newest)
  if is_running && read -r leader pid 2>/dev/null <"$run_dir/$id.pids"; then
    if [[ $1 == KILL ]]; then
      kill -KILL -- "-$leader"
    else
      touch "$run_dir/$id.stop"
      kill -TERM "$pid"
    fi
  fi
  worker_state
}

# The first USR2 starts a profile of the run, the second ends it after $1 seconds; copies it to $2.
worker_profile() {
  local id leader pid profiles before left=120
  id=$(newest)
  profiles=$run_dir/$id.profiles
  if ! is_running || ! read -r leader pid 2>/dev/null <"$run_dir/$id.pids"; then
    answer 'idle: nothing runs that could be profiled'
    return
  fi
  before=$(count_profiles "$profiles")
  kill -USR2 "$pid" && sleep "$1" && kill -USR2 "$pid"
  while (($(count_profiles "$profiles") == before && left--)); do sleep 0.5; done
  if ((left < 0)); then
    answer 'failed: no profile was written'
  elif [[ -n $2 ]] && ! gcloud storage cp --quiet --recursive "$profiles" "${2%/}/$(hostname)/" >&2; then
    answer "failed: not copied to $2"
  else
    answer "profiled ~/${profiles#"$HOME"/}${2:+, copied to ${2%/}}"
  fi
}

count_profiles() { find "$1" -name '*.xplane.pb' 2>/dev/null | wc -l; }

# Prints the complete lines after the first $1, then their total number and the host.
worker_log() {
  local file lines
  file=$run_dir/$(newest).log
  lines=$(wc -l <"$file") || return
  head -n "$((lines))" "$file" | tail -n "+$(($1 + 1))"
  echo "$((lines)) $(hostname)"
}

# Prints the last lines, or all, after the name of the host.
worker_end() {
  local lines=(-n 20) host
  host=$(hostname)
  [[ -z ${1:-} ]] || lines=(-n +1)
  tail "${lines[@]}" "$run_dir/$(newest).log" 2>/dev/null | sed "s/^/$host: /"
}

worker_setup() {
  exec 8>>"$run_dir/setup.lock"
  flock 8
  if is_running; then
    answer 'busy with a run: stop it first'
  elif install_all "$1" >"$run_dir/setup.log" 2>&1; then
    answer "ready $(tail -n +2 "$code_dir/.ready")"
  else
    answer "failed: $(tail -n 1 "$run_dir/setup.log")"
  fi
}

install_all() {
  local next=$code_dir.new
  rm -rf "$next" && mkdir "$next" && tar -xzf "$HOME/mixer_jax.tar.gz" -C "$next" || return
  [[ ! -d $code_dir/.venv ]] || mv "$code_dir/.venv" "$next/.venv"
  rm -rf "$code_dir" && mv "$next" "$code_dir" && cd "$code_dir" || return
  PATH=$HOME/.local/bin:$PATH
  # uv installs a Python that this project supports: older runtimes have 3.10.
  retry install_uv &&
    retry uv venv --quiet --allow-existing --python 3.12 .venv &&
    retry uv pip install --quiet -r requirements.txt &&
    retry uv pip install --quiet --no-deps --no-build-isolation -e . &&
    { [[ -z $1 ]] || mount_bucket "${1%%:*}" "$HOME/${1#*:}"; } &&
    { boot && versions; } >.ready
}

install_uv() {
  command -v uv || python3 -m pip install --quiet --user uv ||
    curl -LsSf https://astral.sh/uv/install.sh | sh
}

versions() {
  echo "$(.venv/bin/python --version) $(uv pip freeze | grep -E '^(jax|jaxlib|libtpu)==' | xargs)" \
    "packages $(uv pip freeze | cksum | cut -d' ' -f1)" \
    "source $(cksum <"$HOME/mixer_jax.tar.gz" | cut -d' ' -f1)"
}

mount_bucket() {
  mkdir -p "$2" && command -v gcsfuse || retry install_gcsfuse || return
  mountpoint -q "$2" || retry gcsfuse -o ro --implicit-dirs "$1" "$2"
}

install_gcsfuse() {
  local key=/usr/share/keyrings/gcsfuse.asc from=https://packages.cloud.google.com/apt
  # A new VM installs updates in the background and holds apt's lock.
  curl -fsSL "$from/doc/apt-key.gpg" | sudo tee "$key" >/dev/null &&
    echo "deb [signed-by=$key] $from gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list &&
    sudo apt-get -qq -o DPkg::Lock::Timeout=600 update &&
    sudo apt-get -qq -o DPkg::Lock::Timeout=600 install -y gcsfuse
}

mkdir -p "$run_dir"
task=$1
shift
case $task in
  supervise) supervise "$@" ;;
  *) "worker_$task" "$@" ;;
esac
