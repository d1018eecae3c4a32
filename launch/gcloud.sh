# shellcheck shell=bash
# For tpu_vm.sh: calls of gcloud, by the settings of its flags ($name, $zone, $queued, …).
# shellcheck disable=SC2154 # tpu_vm.sh sets them

# Runs gcloud: its output is in $scratch/out, its errors in $scratch/err, its exit code in $asked.
ask() {
  local line
  set -- gcloud ${track:+"$track"} compute tpus "$@" --zone="$zone" ${project:+"--project=$project"} --quiet
  if [[ -n $dry ]]; then
    line=$(printf ' %q' "$@")
    echo "${line# }"
    set -- true
  fi
  "$@" </dev/null >"$scratch/out" 2>"$scratch/err"
  asked=$?
  return "$asked"
}

# Prints why gcloud failed: refused (permanently), full (no quota or chips now), missing, exists or
# broken.
why() {
  # ssh's "Permission denied (publickey)" is not meant: a new VM may not have the key yet.
  local refused='PERMISSION_DENIED|permission denied on|not have permission|INVALID_ARGUMENT'
  refused="$refused|UNAUTHENTICATED|active account|reauthentication|has not been used"
  complains() { grep -Eqi "$1" "$scratch/err"; }
  if ((asked == 2)) || complains "$refused"; then
    echo refused
  elif complains 'RESOURCE_EXHAUSTED|more capacity|quota|insufficient|"code": (8|429)'; then
    echo full
  elif complains 'NOT_FOUND|was not found'; then
    echo missing
  elif complains 'ALREADY_EXISTS|already exists'; then
    echo exists
  else
    echo broken
  fi
}

# Prints the errors of gcloud; exits if a retry cannot help.
complain() {
  sed 's/^/tpu_vm: gcloud: /' "$scratch/err" >&2
  [[ $(why) != refused ]] || fail 1 "gcloud refuses, and a retry would not help: solve this for $name first"
}

unreachable() {
  complain
  fail 1 "the workers of $name cannot all be reached"
}

is_missing() { [[ $(why) == missing ]] || { complain && return 1; }; }

describe() { ask "$1" describe "$name" --format="value($2)"; }

# Sets $state: gcloud's state of the TPU; NOT_FOUND; QUEUED_… of its queued resource, if there is no
# TPU yet, or if the TPU is being taken away, which its own state may not say.
look() {
  local of_queue=''
  if [[ -n $dry ]]; then
    describe tpu-vm state
    describe queued-resources state.state
    state=${dry%% *} dry=${dry#* }
    return
  elif describe tpu-vm state; then
    state=$(<"$scratch/out")
    [[ -n $queued ]] || return 0
  elif [[ $(why) == missing ]]; then
    state=''
  else
    complain
    return 1
  fi
  if describe queued-resources state.state; then
    of_queue=$(<"$scratch/out")
  elif [[ $(why) != missing ]]; then
    complain
    return 1
  fi
  case $of_queue in
    SUSPENDING | SUSPENDED | FAILED) state=QUEUED_$of_queue ;;
  esac
  state=${state:-${of_queue:+QUEUED_$of_queue}}
  state=${state:-NOT_FOUND}
}

# Suspended and failed queued resources have no TPU, but count against the quota until deleted. A
# spot TPU cannot be started again.
is_gone() {
  case $state in
    PREEMPTED | TERMINATED | UNKNOWN | NOT_FOUND) ;;
    QUEUED_FAILED | QUEUED_SUSPENDED | QUEUED_SUSPENDING) ;;
    STOPPED | STOPPING) [[ $tier == spot ]] ;;
    *) return 1 ;;
  esac
}

runtime() {
  case $type in
    *[!0-9a-z-]* | *-*[!0-9]*) ;; # no number at its end
    v[234]-[1-9]*) echo tpu-ubuntu2204-base ;;
    v5litepod-[1-9]*) echo v2-alpha-tpuv5-lite ;;
    v5p-[1-9]*) echo v2-alpha-tpuv5 ;;
    v6e-[1-9]*) echo v2-alpha-tpuv6e ;;
  esac
}

create() {
  local created track='' how=(${create_flags[@]+"${create_flags[@]}"})
  case $tier in
    '') ;;
    spot | reserved) how+=("--$tier") ;;
    reservation=*) # a name is an argument of the alpha commands alone, as is the next
      track=alpha
      how+=("--$tier")
      ;;
    flex-start=*)
      track=alpha
      how+=(--provisioning-model=flex-start "--max-run-duration=${tier#*=}")
      ;;
  esac
  say "requesting $name: $type${tier:+, $tier}${queued:+, queued}"
  if [[ -n $queued ]]; then
    ask queued-resources create "$name" --node-id="$name" --accelerator-type="$type" \
      --runtime-version="$version" ${how[@]+"${how[@]}"} \
      ${valid_until:+"--valid-until-duration=$valid_until"}
  else
    ask tpu-vm create "$name" --accelerator-type="$type" --version="$version" ${how[@]+"${how[@]}"}
  fi
  created=$?
  [[ $created == 0 || $(why) != full ]] ||
    say 'suspended and failed queued resources take quota too: gcloud compute tpus queued-resources list'
  return "$created"
}

delete() {
  local found=''
  # A queued TPU can only be deleted with its queued resource.
  if ask queued-resources delete "$name" --force; then found=1; else is_missing || return; fi
  if ask tpu-vm delete "$name"; then found=1; else is_missing || return; fi
  if [[ -n $found ]]; then say "$name is deleted"; else say "there is no $name to delete"; fi
}

# Runs a command on workers; a dead connection is noticed within a minute. The commands of queued
# resources connect to 64 workers at a time, and can use a tunnel; those of tpu-vm cannot.
on_workers() {
  ask "$group" ssh "$name" --worker="$1" ${route:+"$route"} --ssh-flag=-oConnectTimeout=30 \
    --ssh-flag=-oServerAliveInterval=15 --ssh-flag=-oServerAliveCountMax=4 --command="$2"
}

to_workers() { ask "$group" scp "$@" "$name:" --worker=all ${route:+"$route"}; }

# Runs a task on all workers; $said has their answers, one per line. Fails if one is unreachable.
workers() {
  local task number
  said=''
  task="bash tpu_worker.sh $1"
  shift
  (($# == 0)) || task+=$(printf ' %q' "$@")
  on_workers all "$task || echo \"@ \$(hostname) unset (run setup)\"" || return
  said=$(sed -n 's/^@ //p' "$scratch/out" | sort -u)
  [[ -z $dry ]] || return 0
  # gcloud leaves out a node that it cannot connect to, and succeeds.
  number=$(answers | cut -d' ' -f1 | sort -u | wc -l)
  ((number >= known && number > 0)) || return
  known=$number
}

answers() { [[ -z $said ]] || echo "$said"; }
