#!/usr/bin/env bash
# The part of launch/tpu.sh that runs on each worker of a TPU: setup, check, run (and supervise it), log, stop.
# `tpu.sh setup` copies this file there. It needs what TPU VM images have: Ubuntu, bash 5, GNU tools. All its files are
# under ~/contrastive_jax: launch/tpu_worker.sh, code/, venv/, ready (exists if the installation is complete), and for
# worker N logs/run-N.log, logs/run-N.pid (process id, run) and logs/run-N.exit (exit code, run).
set -u

say() { echo "worker $number: $*"; }

fail() { # PROBLEM -> REMEDY
  say "error: $*" >&2
  exit 2
}

# After a restart of the VM the process id may belong to another process, so the command line is checked too.
alive() {
  [ -n "$pid" ] && [ -r "/proc/$pid/cmdline" ] &&
    tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q 'contrastive_jax[.]main'
}

find_python() { # prints the first Python >= 3.11 that can create a virtual environment
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11; do
    # venv needs ensurepip, which Debian and Ubuntu have in a separate package.
    if "$candidate" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

setup() { # ARCHIVE: the packed working tree, in the home directory
  local python
  ! alive || fail "run $run is alive (pid $pid) -> launch/tpu.sh stop first"
  python="$(find_python)" ||
    fail "no Python >= 3.11 with venv, only $(python3 -V 2>&1) -> on all workers: sudo add-apt-repository -y" \
      'ppa:deadsnakes/ppa && sudo apt-get -o DPkg::Lock::Timeout=300 install -y python3.12 python3.12-venv'
  rm -f "$root/ready"
  mkdir -p "$root/code" "$root/logs" && cd "$root/code" || exit 1
  # Only files of the previous tree that the new one lacks are deleted: checkpoints may lie beside the code.
  if [ -f .launch-files ]; then cp .launch-files ../files.old; else : >../files.old; fi
  tar -xzf "$HOME/$1" || exit 1
  comm -z -23 <(sort -z ../files.old) <(sort -z .launch-files) | xargs -0 -r rm -f --
  [ -x ../venv/bin/pip ] || "$python" -m venv --clear ../venv || exit 1
  ../venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[tpu]' || exit 1
  : >"$root/ready"
  say "installed, $(../venv/bin/python -V 2>&1)"
}

check() { # prints a line if a run is alive; called before any worker starts
  [ -f "$root/ready" ] || fail 'the code is not installed -> launch/tpu.sh setup'
  ! alive || say "run $run is alive (pid $pid)"
}

start() { # RUN ARGUMENTS: the arguments in base64, each followed by a NUL
  local arguments
  # gcloud repeats a command after a broken connection: the run must not start twice, nor be refused because of itself.
  if [ "$run" = "$1" ]; then
    say "run $run is already started (pid $pid)"
    return
  fi
  ! alive || fail "run $run is alive (pid $pid) -> launch/tpu.sh stop first"
  mapfile -d '' -t arguments < <(printf '%s' "${2:-}" | base64 -d)
  cd "$root/code" || exit 1
  nohup setsid bash "$root/launch/tpu_worker.sh" supervise "$1" "${arguments[@]}" </dev/null >>"$files.log" 2>&1 &
  for _ in {1..100}; do
    if [ -f "$files.pid" ] && read -r pid run <"$files.pid" && [ "$run" = "$1" ]; then
      say "run $run started (pid $pid), log $files.log"
      return
    fi
    sleep 0.1
  done
  say "error: the run did not start within 10 s -> see $files.log" >&2
  exit 1
}

# The parent process of the run: writes its process id and exit code. It is detached and ignores the SIGHUP of a
# closed connection.
supervise() { # RUN ARGUMENTS...
  local code=0
  run="$1"
  shift
  echo "=== run $run, started $(date -u '+%F %T') UTC ==="
  PYTHONUNBUFFERED=1 "$root/venv/bin/python" -m contrastive_jax.main "$@" &
  echo "$! $run" >"$files.pid.new" && mv "$files.pid.new" "$files.pid"
  wait "$!" || code=$?
  echo "=== run $run, ended with exit code $code $(date -u '+%F %T') UTC ==="
  echo "$code $run" >"$files.exit.new" && mv "$files.exit.new" "$files.exit"
}

log() { # [follow]
  [ -f "$files.log" ] || fail "there is no $files.log yet -> launch/tpu.sh run"
  if [ "${1:-}" = follow ] && alive; then exec tail -n 100 -F --pid="$pid" "$files.log"; fi
  exec tail -n 100 "$files.log"
}

stop() { # GRACE in seconds
  local code='unknown' ended=''
  if ! alive; then
    say 'no run is alive'
    return
  fi
  kill -TERM "$pid"
  SECONDS=0
  while alive; do
    if [ "$SECONDS" -ge "$1" ]; then
      say "error: run $run is still alive after $1 s (pid $pid)" \
        "-> launch/tpu.sh stop again, or read its log: launch/tpu.sh logs --worker=$number" >&2
      exit 1
    fi
    sleep 0.2
  done
  for _ in {1..50}; do # the parent process writes the exit code a moment later
    if [ -f "$files.exit" ] && read -r code ended <"$files.exit" && [ "$ended" = "$run" ]; then break; fi
    sleep 0.1
  done
  say "run $run ended with exit code $code"
}

main() {
  local command="$1"
  shift
  PATH="$PATH:$HOME/.local/bin" # uv installs Python here; an ssh command without a login shell lacks it
  number="$(curl -sf -m 10 -H 'Metadata-Flavor: Google' \
    'http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number')" ||
    number="${HOSTNAME##*-w-}"
  root="$HOME/contrastive_jax"
  files="$root/logs/run-$number"
  pid='' run=''
  if [ -f "$files.pid" ]; then read -r pid run <"$files.pid"; fi
  case "$command" in
    setup) setup "$@" ;;
    check) check ;;
    run) start "$@" ;;
    supervise) supervise "$@" ;;
    log) log "$@" ;;
    stop) stop "$@" ;;
  esac
}

main "$@"
exit # the next setup replaces this file, and bash must not continue to read from it
