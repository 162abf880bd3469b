#!/usr/bin/env bash
# Trains on one machine, on all its GPUs (or its CPU), and starts the run again while its exit code is worth it.
set -u

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source-path=SCRIPTDIR source=restarts.sh
. "$here/restarts.sh"

usage() {
  cat <<'END'
launch/gpu.sh [--retries=N] [--pause=SECONDS] -- ARGUMENTS

Run `python -m contrastive_jax.main ARGUMENTS` here, and run it again while its exit code is worth it: after a signal to
the run, a crash, a lost process. Not after a success, nor after exit codes 2 to 6 (docs/training.md#exit-codes).
A signal to this script (TERM, INT, HUP, USR1, USR2) is passed on to the run, which saves a checkpoint; both then end.
  --retries=N      how many runs in a row that end within 30 minutes are started again (default 5)
  --pause=SECONDS  time before another start (default 10)
  PYTHON           environment variable: the Python to use (default python)

To leave it running after the end of the connection, with a log:
  nohup launch/gpu.sh -- --config=mocov2 --workdir=runs/mocov2 >mocov2.log 2>&1 &
Exit code: that of the last run; 2 for wrong usage.
END
}

error() { echo "launch/gpu.sh: error: $*" >&2; } # PROBLEM -> REMEDY

retries=5 pause=10
while [ $# -gt 0 ]; do
  case "$1" in
    --) break ;;
    --retries=*) retries="${1#*=}" ;;
    --pause=*) pause="${1#*=}" ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      error "unknown option $1 -> see --help; arguments for the training follow --"
      exit 2
      ;;
  esac
  shift
done
if [ $# = 0 ]; then
  error 'no arguments for the training are given -> launch/gpu.sh -- ARGUMENTS'
  exit 2
fi
shift
for number in "$retries" "$pause"; do
  if ! [[ "$number" =~ ^[0-9]+$ ]]; then
    error "$number is not a number -> give --retries and --pause whole numbers"
    exit 2
  fi
done

run='' signalled=''

pass_on() { # SIGNAL
  signalled="$1"
  [ -z "$run" ] || kill -s "$1" "$run" 2>/dev/null
}

for signal in TERM INT HUP USR1 USR2; do
  # shellcheck disable=SC2064  # the name of this signal, now
  trap "pass_on $signal" "$signal"
done

failures=0
while :; do
  began="$SECONDS" code=0
  # With job control the run has a process group of its own: Ctrl-C reaches it once, through pass_on.
  set -m
  "${PYTHON:-python}" -m contrastive_jax.main "$@" </dev/null &
  run=$!
  set +m
  wait "$run" || code=$?
  while kill -0 "$run" 2>/dev/null; do # a signal to this script has ended `wait`, not the run
    code=0
    wait "$run" || code=$?
  done
  run=''
  if [ -n "$signalled" ] || ! worth_a_restart "$code"; then exit "$code"; fi
  if [ $((SECONDS - began)) -ge "$short_seconds" ]; then failures=0; fi
  failures=$((failures + 1))
  if [ "$failures" -gt "$retries" ]; then
    error "$failures runs in a row ended early, the last with exit code $code -> look at the lines above"
    exit "$code"
  fi
  echo "launch/gpu.sh: the run has ended with exit code $code: starting it again in $pause s ($failures of $retries)" >&2
  sleep "$pause" &
  wait $! # a signal ends this wait
  if [ -n "$signalled" ]; then exit "$code"; fi
done
