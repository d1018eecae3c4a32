# shellcheck shell=bash
# For the other scripts of this folder: retries after temporary failures.
backoff=${TPU_BACKOFF:-10}

# Sleeps for $pause seconds and doubles it; it starts as $backoff.
wait_longer() {
  sleep "$pause"
  pause=$((pause * 2 > 600 ? 600 : pause * 2))
}

# Runs a command up to five times, since installations and ssh fail now and then.
retry() {
  local pause=$backoff left
  for left in 4 3 2 1 0; do
    "$@" && return
    ((left)) && wait_longer
  done
  return 1
}
