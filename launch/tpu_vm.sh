#!/usr/bin/env bash
# Runs a command on all workers of a Cloud TPU VM, from a laptop that may lose its connection.
# Usage: launch/tpu_vm.sh COMMAND NAME --zone=ZONE [FLAGS] [-- MIXER_JAX_COMMAND …]
#   create    create the TPU: --type=v3-8 [--queued [--valid-until=6h]] [--version=RUNTIME], and one of
#             [--spot | --reserved | --reservation=NAME | --flex-start=HOURSh]
#   setup     install this checkout and its exact versions on every worker;
#             [--mount=BUCKET:DIR] mounts a bucket with gcsfuse
#   run       start `mixer-jax MIXER_JAX_COMMAND …` on all workers, follow it, exit with its code;
#             [--env=NAME=VALUE]… sets a variable there
#   status    print the state of the TPU, its queued resource, and the run on every worker
#   logs      print the log of the newest run: [--worker=N | --worker=all], [--follow] to its end
#   profile   record a profile of the run on every worker: [--seconds=5] [--to=gs://BUCKET/DIR]
#   stop      let the run save and exit (75); after TPU_STOP_SECONDS it is killed
#   delete    delete the TPU and its queued resource
#   babysit   create, setup and run, again after each preemption, until the run is complete
# Every command accepts every flag, so that one variable can hold NAME and the flags of all.
#   --project=P, TPU_PROJECT  (gcloud's default)     --zone=ZONE, TPU_ZONE
#   --network=N  --subnetwork=N  --internal-ips  --service-account=EMAIL  --scopes=…  --labels=K=V,…
#   --tags=…  --metadata=K=V,…  --data-disk=source=DISK,mode=read-only       as for gcloud's create
#   --iap             connect through an IAP tunnel; needs --queued
#   TPU_POLL          seconds between two checks (30)
#   TPU_BACKOFF       seconds before the first retry (10); doubled each time, at most 600
#   TPU_FAILURES      failures without a preemption in between, after which babysit gives up (5)
#   TPU_PATIENCE      seconds before workers are killed if another one has failed (600)
#   TPU_STOP_SECONDS  seconds before workers are killed after stop (600)
#   DRY_RUN=1         print every gcloud command and run none
# Exit code: that of the run; 0 done, 1 gcloud or a worker failed, 2 bad input, 75 the TPU is gone.
set -u

root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=launch/retry.sh
. "$root/launch/retry.sh"
# shellcheck source=launch/gcloud.sh
. "$root/launch/gcloud.sh"

say() { echo "tpu_vm: $*" >&2; }

# fail CODE LINE
fail() {
  say "$2"
  exit "$1"
}

any() { answers | grep -q "^[^ ]* $1"; }

# Succeeds if all lines of $said have this word after HOST, and the same rest of the line.
agree() {
  if answers | grep -Ev "^[^ ]+ $1( |$)" >&2; then
    say "not every worker of $name is $1: see above"
  elif (($(answers | cut -d' ' -f2- | sort -u | wc -l) > 1)); then
    answers >&2
    say "the workers of $name have different versions: see above, and run setup again"
  else
    return 0
  fi
  return 1
}

setup() {
  say "setting up every worker of $name"
  # Tracked files in their current state; macOS would add a ._ file to each.
  [[ -n $dry ]] || (cd "$root" && git ls-files -z |
    COPYFILE_DISABLE=1 tar --null -czf "$scratch/mixer_jax.tar.gz" -T -) ||
    fail 2 "$root cannot be packed: setup needs a git checkout in which no tracked file is missing"
  if retry to_workers "$scratch/mixer_jax.tar.gz" "$root/launch/tpu_worker.sh" \
    "$root/launch/retry.sh" && retry workers setup "$mount"; then
    agree ready && answers
  else
    complain
    return 1
  fi
}

# Starts the run $1 on the workers that have not started it yet.
start() {
  local id=$1
  shift
  retry workers start "$id" "${#variables[@]}" ${variables[@]+"${variables[@]}"} "$@" && agree started
}

# Sets $id of a new run: the checksum of the command with its variables, and a unique part.
new_id() {
  serial=$((serial + 1))
  id=$(printf '%s\n' ${variables[@]+"${variables[@]}"} "$@" | cksum | cut -d' ' -f1)
  id+=-$(date +%s)-$$-$serial
}

# Prints the log after the first $shown lines; $shown_host is the host that it is of.
show_log() {
  local end
  on_workers "$worker" "bash tpu_worker.sh log $shown" || return
  end=$(tail -n 1 "$scratch/out")
  [[ $end =~ ^([0-9]+)\ (.+)$ ]] || return
  shown=${BASH_REMATCH[1]} shown_host=${BASH_REMATCH[2]}
  sed '$d' "$scratch/out"
}

# Names the worker that failed first, and prints the end of its log if it was not shown.
blame() {
  local host=$1
  say "worker $host failed first, with code $code"
  [[ $host != "$shown_host" ]] || return 0
  on_workers all 'bash tpu_worker.sh end' && grep -F "$host: " "$scratch/out" >&2
}

# Follows the run to its end on all workers, also if ssh fails. $code: that of the worker that
# failed first, or 0; 75 if the TPU is gone.
follow() {
  local limit='' first blamed=''
  shown=0 shown_host=''
  while :; do
    show_log
    if workers state; then
      # HOST WORD ID CODE TIME; a worker that knows no run was created again.
      first=$(answers |
        awk '$2 != "running" && $4 != "0" { print ($3 ~ /-/ ? $5 " " $4 : "0 137"), $1 }' |
        sort -n | head -n 1 | cut -d' ' -f2-)
      code=${first%% *}
      code=${code:-0}
      any running || show_log
      if [[ -z $blamed && $code != 0 && $code != 75 ]] && ! any stopped; then
        blamed=1
        blame "${first#* }"
      fi
      any running || return
      ((code == 0)) || limit=${limit:-$((SECONDS + ${TPU_PATIENCE:-600}))}
      if [[ -n $limit ]] && ((SECONDS >= limit)); then
        say "a worker exited with code $code but others did not: killing them"
        workers signal KILL
      fi
    elif look && is_gone; then
      say "$name is $state"
      code=75 said=''
      return
    else
      say "the workers of $name cannot all be reached (state: ${state:-unknown}); trying again"
    fi
    sleep "$poll"
  done
}

run() {
  local id
  retry workers check || unreachable
  agree free || exit 2
  new_id "$@"
  start "$id" "$@" || fail 1 "the run did not start on every worker of $name: stop it"
  follow
}

status() {
  look || exit
  [[ -n $dry ]] || echo "$name: $state"
  [[ $state != READY ]] || { workers state || unreachable && answers; }
}

logs() {
  shown=0
  if [[ $worker == all ]]; then
    on_workers all 'bash tpu_worker.sh end all' || unreachable
    [[ -n $dry ]] || sort -s -t: -k1,1 "$scratch/out"
  elif [[ -n $following ]]; then
    follow
  elif ! show_log; then
    [[ -n $dry ]] || fail 1 "worker $worker of $name cannot be reached, or has had no run"
  fi
}

profile() {
  workers profile "$seconds" "$to" || unreachable
  agree profiled && answers
}

stop() {
  local limit=$((SECONDS + ${TPU_STOP_SECONDS:-600}))
  retry workers signal TERM || unreachable
  while any running; do
    if ((SECONDS >= limit)); then
      workers signal KILL || unreachable
      fail 1 "the run did not exit and was killed: it resumes from its last saved state"
    fi
    sleep "$poll"
    workers state || say "the workers of $name cannot all be reached; trying again"
  done
  say "nothing is running on $name"
}

# One attempt on a TPU that is READY; $code is 1 if no run could be started.
attempt() {
  local id current
  code=1
  retry workers state || { complain && return; }
  new_id "$@"
  current=$(answers | awk '$2 == "running" { print $3; exit }')
  if [[ -z $current ]]; then
    if [[ -n $unprepared ]] || any unset; then setup || return; fi
    unprepared=1 # in case of a failure before the start
    retry workers check && agree free && start "$id" "$@" || return
    unprepared=''
  elif [[ ${current%%-*} == "${id%%-*}" ]]; then
    say 'following the run that is already running'
    start "$current" "$@" || return
  else
    fail 2 "$name runs another command: stop it first, or use logs --follow"
  fi
  follow
}

# Checks config, workdir and what this machine has of the data before a TPU costs money, if it has
# mixer_jax.
check_run() {
  local python=${PYTHON:-$root/.venv/bin/python}
  [[ $1 == train && -z $dry ]] && command -v "$python" >/dev/null || return 0
  (cd "$root" && "$python" -m mixer_jax "$@" --check >&2)
  (($? != 2)) || fail 2 'the run would be rejected: nothing was created'
}

babysit() {
  local failures=0 pause=$backoff unprepared=$dry
  check_run "$@"
  dry=${dry:+PREEMPTED NOT_FOUND READY}
  while :; do
    code=1
    if ! look; then
      # Most likely the connection of this machine, which the run does not need.
      say "the state of $name is not available; trying again in $pause s"
      wait_longer
      continue
    elif [[ $state == READY ]]; then
      attempt "$@"
      if ((code == 0 || code == 2)) || any stopped; then return; fi
      problem="exited with code $code"
    elif [[ $state == NOT_FOUND ]]; then
      ! create || { pause=$backoff && continue; }
      complain
      case $(why) in
        full) problem='has no quota or capacity' code=75 ;;
        exists) continue ;;
        *) problem='cannot be created' ;;
      esac
    elif is_gone; then
      say "$name is $state: creating it again"
      # A request that always fails must not be repeated without a pause.
      if delete && [[ $state != QUEUED_FAILED ]]; then continue; fi
      problem="was $state" code=75
    elif [[ $state == STOPPED || $state == HIDDEN ]]; then
      fail 1 "$name is $state, which somebody requested: delete it, or start it with gcloud"
    else
      say "$name is $state; waiting"
      sleep "$poll"
      continue
    fi
    # Preemption and lack of capacity are not failures of the run.
    if ((code == 75)); then failures=0; else failures=$((failures + 1)); fi
    ((failures < ${TPU_FAILURES:-5})) ||
      fail "$code" "$name $problem: giving up after $failures failures"
    say "$name $problem; trying again in $pause s"
    wait_longer
  done
}

usage() { sed -n '2,/^set -u/s/^# //p' "$0"; }

command=${1:-}
case $command in
  create | setup | run | status | logs | profile | stop | delete | babysit) shift ;;
  -h | --help)
    usage
    exit
    ;;
  '')
    usage >&2
    exit 2
    ;;
  *) fail 2 "no command '$command': $0 --help lists them" ;;
esac
name='' type='' version='' tier='' queued='' valid_until='' mount='' following='' worker=0 seconds=5
to='' internal='' iap='' track='' known=0 shown_host='' create_flags=() variables=()
zone=${TPU_ZONE:-} project=${TPU_PROJECT:-} poll=${TPU_POLL:-30} dry=${DRY_RUN:+READY} serial=0 said=''
while (($#)); do
  case $1 in
    --zone=?*) zone=${1#*=} ;;
    --project=?*) project=${1#*=} ;;
    --type=?*) type=${1#*=} ;;
    --version=?*) version=${1#*=} ;;
    --spot | --reserved | --reservation=?* | --flex-start=?*)
      [[ -z $tier || $tier == "${1#--}" ]] || fail 2 "$1 and --$tier exclude each other"
      tier=${1#--}
      ;;
    --network=?* | --subnetwork=?* | --service-account=?* | --scopes=?* | --labels=?* | --tags=?* | \
      --metadata=?* | --data-disk=?*) create_flags+=("$1") ;;
    --internal-ips) internal=1 create_flags+=("$1") ;;
    --iap) iap=1 ;;
    --env=?*=*) variables+=("${1#*=}") ;;
    --seconds=?*) seconds=${1#*=} ;;
    --to=?*) to=${1#*=} ;;
    --queued) queued=1 ;;
    --valid-until=?*) valid_until=${1#*=} ;;
    --mount=?*:?*) mount=${1#*=} ;;
    --worker=?*) worker=${1#*=} ;;
    --follow) following=1 ;;
    --) break ;;
    -*) fail 2 "$1 is not a flag, or lacks its =VALUE: $0 --help lists them" ;;
    *)
      [[ -z $name ]] || fail 2 "'$1' after the name $name: write the command to run after --"
      name=$1
      ;;
  esac
  shift
done
[[ $name =~ ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$ ]] ||
  fail 2 "'$name' is not a TPU name: lower-case letters, digits and -, as in $0 $command my-tpu"
[[ $zone =~ ^[a-z]+-[a-z]+[0-9]+-[a-z0-9]+$ ]] ||
  fail 2 "'$zone' is not a zone: use --zone=us-central1-a, or TPU_ZONE"
[[ $worker =~ ^[0-9]+$ || $worker == all ]] ||
  fail 2 "--worker=$worker must be the number of a worker, from 0, or all"
[[ $worker != all || -z $following ]] || fail 2 '--follow shows one worker: use --worker=N'
[[ -z $iap || -n $queued ]] ||
  fail 2 '--iap needs --queued: only the ssh of queued resources can use a tunnel'
[[ $tier != flex-start=* || -n $queued ]] || fail 2 '--flex-start needs --queued'
[[ $tier != flex-start=* || $tier =~ =[0-9a-z]+$ ]] ||
  fail 2 "--$tier must be a duration, such as 6h"
for variable in ${variables[@]+"${variables[@]}"}; do
  [[ $variable =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || fail 2 "--env=$variable must be NAME=VALUE"
done
[[ $seconds =~ ^[1-9][0-9]?$ ]] || fail 2 "--seconds=$seconds must be an integer in 1..99"
[[ -z $to || $to == gs://?* ]] || fail 2 "--to=$to must be a folder in a bucket, gs://BUCKET/DIR"
[[ -z $mount || $mount =~ ^[a-z0-9._-]+:[A-Za-z0-9_/-]+$ ]] ||
  fail 2 "--mount=$mount must be BUCKET:DIR without gs:// and dots, with DIR in the home folder"
[[ -z $valid_until || $valid_until =~ ^[0-9a-z]+$ ]] ||
  fail 2 "--valid-until=$valid_until must be a duration, such as 6h"
[[ $poll =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail 2 "TPU_POLL=$poll must be a number of seconds"
for setting in TPU_BACKOFF TPU_FAILURES TPU_PATIENCE TPU_STOP_SECONDS; do
  [[ ${!setting-0} =~ ^(0|[1-9][0-9]{0,8})$ ]] || fail 2 "$setting=${!setting} must be an integer"
done
case $command in
  create | babysit)
    [[ -z $valid_until || -n $queued ]] || fail 2 '--valid-until needs --queued'
    version=${version:-$(runtime)}
    [[ -n $type && -n $version ]] || fail 2 "'$type' is not a TPU type with a known runtime: \
--type=v2-8, v3-8, v4-8, v5litepod-8 (v5e), v5p-8, v6e-8 and their pods; or add --version=RUNTIME"
    ;;
esac
case $command in
  run | babysit) (($# > 1)) || fail 2 "no command to run: write $0 $command $name … -- train FLAGS…" ;;
  *) (($# == 0)) || fail 2 "$command does not accept a command after --" ;;
esac
(($#)) && shift # --
[[ -n $dry ]] || command -v gcloud >/dev/null ||
  fail 2 'gcloud is not on PATH: https://cloud.google.com/sdk/docs/install'

group=tpu-vm route=''
[[ -z $queued ]] || group='queued-resources'
[[ -z $internal ]] || route=--internal-ip
[[ -z $iap ]] || route=--tunnel-through-iap

scratch=$(mktemp -d) || exit
trap 'rm -rf "$scratch"' EXIT
trap 'say "interrupted; the run on $name continues: see status, logs --follow, stop"; exit 130' INT TERM

case $command in
  create)
    create || { complain && fail 1 "$name was not created"; }
    ;;
  run | babysit | logs)
    code=0
    "$command" "$@"
    exit "$code"
    ;;
  *) "$command" ;;
esac
