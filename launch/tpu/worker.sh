#!/usr/bin/env bash
# The part of launch/tpu.sh that runs on each worker of a TPU: setup, check, run (and supervise it), state, log, stop.
# `tpu.sh setup` copies this file there. It needs what TPU VM images have: Ubuntu, bash 5, GNU tools. All its files are
# under ~/contrastive_jax: launch/tpu/worker.sh, code/, venv/, ready (exists if the installation is complete), and in
# logs/ for worker N run-N.log, run-N.pid (process id, its start, run), run-N.exit (exit code, run), run-N.stopped (the
# run that `stop` has ended), lock (held by the command that looks and starts), claim (on worker 0: the run that is being
# started, and since when).
set -u

claim_seconds=60 # a claim that is older is left over from a start that was broken off

say() { echo "worker $number: $*"; }

fail() { # PROBLEM -> REMEDY
  say "error: $*" >&2
  exit 2
}

start_of() { # PID: prints when a process started, in clock ticks since the start of the machine; nothing if there is none
  local stat fields
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
  read -r -a fields <<<"${stat##*) }" # the name of the program, in brackets, may contain anything
  case "${fields[0]}" in
    Z | X) ;; # ended, but not yet waited for
    *) echo "${fields[19]}" ;;
  esac
}

# After a while, or a restart of the VM, the process id may belong to another process, which has started at another time.
alive() { [ -n "$started" ] && [ "$(start_of "$pid")" = "$started" ]; }

look() {
  pid='' started='' run=''
  if [ -f "$files.pid" ]; then read -r pid started run <"$files.pid"; fi
}

lock() { # until `unlock` or the end of this script, no other command of this worker looks or starts
  mkdir -p "$root/logs"
  exec 9>"$root/logs/lock"
  flock -w 30 9 || fail 'another setup or run is at work here -> wait for its end'
  look
}

unlock() { exec 9>&-; }

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
  lock
  ! alive || fail "run $run is alive (pid $pid) -> launch/tpu.sh stop first"
  python="$(find_python)" ||
    fail "no Python >= 3.11 with venv, only $(python3 -V 2>&1) -> on all workers: sudo add-apt-repository -y" \
      'ppa:deadsnakes/ppa && sudo apt-get -o DPkg::Lock::Timeout=300 install -y python3.12 python3.12-venv'
  rm -f "$root/ready"
  mkdir -p "$root/code" && cd "$root/code" || exit 1
  # Only files of the previous tree that the new one lacks are deleted: checkpoints may lie beside the code.
  if [ -f .launch-files ]; then cp .launch-files ../files.old; else : >../files.old; fi
  tar -xzf "$HOME/$1" || exit 1
  comm -z -23 <(sort -z ../files.old) <(sort -z .launch-files) | xargs -0 -r rm -f --
  [ -x ../venv/bin/pip ] || "$python" -m venv --clear ../venv || exit 1
  ../venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[tpu]' || exit 1
  : >"$root/ready"
  say "installed, $(../venv/bin/python -V 2>&1)"
}

now() { # prints the seconds since the start of the machine; the clock of the day may jump
  local up
  read -r up _ </proc/uptime
  echo "${up%.*}"
}

claimed_by_another() { # RUN: whether another run is being started, which is then in $claimed
  local since=0
  [ "$number" = 0 ] && [ -f "$root/logs/claim" ] && read -r claimed since <"$root/logs/claim" &&
    [ "$claimed" != "$1" ] && [ "$(now)" -ge "$since" ] && [ "$(now)" -lt "$((since + claim_seconds))" ]
}

check() { # RUN: prints a line if another run is alive or is being started; called before any worker starts
  local claimed
  [ -f "$root/ready" ] || fail 'the code is not installed -> launch/tpu.sh setup'
  lock
  if alive; then
    [ "$run" = "$1" ] || say "run $run is alive (pid $pid)"
  elif claimed_by_another "$1"; then
    say "run $claimed is being started"
  elif [ "$number" = 0 ]; then # worker 0 decides between two that start at the same moment
    echo "$1 $(now)" >"$root/logs/claim"
  fi
}

release() { # RUN: which will not be started after all
  local claimed=''
  lock
  if [ -f "$root/logs/claim" ]; then read -r claimed _ <"$root/logs/claim"; fi
  [ "$claimed" != "$1" ] || rm -f "$root/logs/claim"
}

start() { # RUN ARGUMENTS: the arguments in base64, each followed by a NUL
  local arguments claimed
  lock
  # gcloud repeats a command after a broken connection: the run must not start twice, nor be refused because of itself.
  if [ "$run" = "$1" ]; then
    say "run $run is already started (pid $pid)"
    return
  fi
  ! alive || fail "run $run is alive (pid $pid) -> launch/tpu.sh stop first"
  ! claimed_by_another "$1" || fail "run $claimed is being started -> launch/tpu.sh status"
  mapfile -d '' -t arguments < <(printf '%s' "${2:-}" | base64 -d)
  cd "$root/code" || exit 1
  nohup setsid bash "$root/launch/tpu/worker.sh" supervise "$1" "${arguments[@]}" </dev/null >>"$files.log" 2>&1 9>&- &
  for _ in {1..100}; do
    look
    if [ "$run" = "$1" ]; then
      rm -f "$root/logs/claim"
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
  local code=0 began
  run="$1"
  shift
  echo "=== run $run, started $(date -u '+%F %T') UTC ==="
  PYTHONUNBUFFERED=1 "$root/venv/bin/python" -m contrastive_jax.main "$@" &
  began="$(start_of "$!")"
  echo "$! ${began:-over} $run" >"$files.pid.new" && mv "$files.pid.new" "$files.pid"
  wait "$!" || code=$?
  echo "=== run $run, ended with exit code $code $(date -u '+%F %T') UTC ==="
  echo "$code $run" >"$files.exit.new" && mv "$files.exit.new" "$files.exit"
  # What is left of this session, such as processes that read images: they would keep the TPU from the next run.
  kill -KILL -- "-$$" 2>/dev/null
}

exit_code() { # prints the exit code of the run that has ended
  local code ended
  for _ in {1..50}; do # the parent process writes it a moment later
    if [ -f "$files.exit" ] && read -r code ended <"$files.exit" && [ "$ended" = "$run" ]; then
      echo "$code"
      return
    fi
    sleep 0.1
  done
  echo unknown # the VM was restarted
}

state() { # prints what became of the last run; launch/tpu.sh watch reads these lines
  local stopped=''
  [ -f "$root/ready" ] || {
    say 'the code is not installed'
    return
  }
  if [ -f "$files.stopped" ]; then read -r stopped <"$files.stopped"; fi
  if alive; then
    say "run $run is alive (pid $pid)"
  elif [ -z "$run" ]; then
    say 'no run yet'
  elif [ "$stopped" = "$run" ]; then
    say "run $run was stopped, exit code $(exit_code)"
  else
    say "run $run has ended, exit code $(exit_code)"
  fi
}

log() { # [follow]
  [ -f "$files.log" ] || fail "there is no $files.log yet -> launch/tpu.sh run"
  if [ "${1:-}" = follow ] && alive; then exec tail -n 100 -F --pid="$pid" "$files.log"; fi
  exec tail -n 100 "$files.log"
}

ended_within() { # SECONDS
  SECONDS=0
  while alive; do
    if [ "$SECONDS" -ge "$1" ]; then return 1; fi
    sleep 0.2
  done
}

stop() { # GRACE in seconds, [restart]: the run will be started again, so it does not count as stopped
  lock # a run that is being started at this moment is stopped too
  unlock
  if ! alive; then
    say 'no run is alive'
    return
  fi
  [ "${2:-}" = restart ] || echo "$run" >"$files.stopped"
  kill -TERM "$pid"
  if ! ended_within "$1"; then
    say "run $run is still alive $1 s after SIGTERM: it is killed, and only its last checkpoint is left" >&2
    ! alive || kill -KILL "$pid"
    if ! ended_within 20; then
      say "error: run $run does not end (pid $pid): the kernel waits for a device or a disk" \
        '-> launch/tpu.sh delete, and create the TPU again' >&2
      exit 1
    fi
  fi
  say "run $run ended with exit code $(exit_code)"
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
  look
  case "$command" in
    setup) setup "$@" ;;
    check) check "$@" ;;
    release) release "$@" ;;
    run) start "$@" ;;
    supervise) supervise "$@" ;;
    state) state ;;
    log) log "$@" ;;
    stop) stop "$@" ;;
  esac
}

main "$@"
exit # the next setup replaces this file, and bash must not continue to read from it
