# shellcheck shell=bash
# The training on the workers of a TPU: setup, run, logs, stop, up, watch. launch/tpu/worker.sh is what runs there.
# shellcheck disable=SC2154  # the settings are those of launch/tpu.sh

archive='contrastive_jax-code.tar.gz'    # the working tree, in the home directory of each worker
worker_script='launch/tpu/worker.sh'     # in the working tree, and in ~/contrastive_jax of each worker

ssh_to() { # WORKER COMMAND: a login shell of the worker runs COMMAND, which therefore must not need quoting
  # -n: gcloud opens one ssh for each worker, and none of them may read from this terminal.
  on_tpu ssh "$name" "--worker=$1" --ssh-flag=-n "--command=$2"
}

worker() { # WORKER WORDS...: runs launch/tpu/worker.sh there
  local where="$1" code=0
  shift
  ssh_to "$where" "bash contrastive_jax/$worker_script $*" || code=$?
  [ "$code" != 127 ] || fail "there is no code on $name yet -> launch/tpu.sh setup"
  return "$code"
}

worker_states() { # prints a line for each worker; nothing if one of them cannot be asked
  local code=0 found
  # Without its message where there is no such file yet, which is exit code 127.
  local command="bash contrastive_jax/$worker_script state 2>/dev/null"
  found="$(tpu_vm ssh "$name" --worker=all --ssh-flag=-n "--command=$command")" || code=$?
  case "$code" in
    0) grep '^worker [^ ]*: ' <<<"$found" ;; # leaves out what a login shell may print
    127) echo 'worker all: the code is not installed' ;;
    *) return "$code" ;;
  esac
}

pack_tree() { # ROOT ARCHIVE: packs the working tree and the list of its files, which the next setup compares with
  set -euo pipefail
  local lists file
  lists="$(mktemp -d)"
  git -C "$1" ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
    # git also lists files whose deletion is not committed yet
    if [ -e "$1/$file" ] || [ -L "$1/$file" ]; then printf '%s\0' "$file"; fi
  done >"$lists/.launch-files"
  COPYFILE_DISABLE=1 tar -czf "$2" -C "$lists" .launch-files -C "$1" --null -T "$lists/.launch-files"
  rm -r "$lists"
}

tpu_setup() {
  local packed="$HOME/$archive"
  need --name --zone
  if [ -z "$dry_run" ]; then
    git -C "$tree" rev-parse >/dev/null 2>&1 ||
      fail "$tree is not a git checkout -> launch from a checkout: git lists the files to copy"
    packed="$scratch/$archive"
  fi
  run_or_print bash -c "$(declare -f pack_tree)"$'\n''pack_tree "$@"' pack_tree "$tree" "$packed" || return
  on_tpu scp "$packed" "$name:$archive" --worker=all || return
  # The archive contains the script that unpacks it, so this script is extracted first.
  local unpack="mkdir -p contrastive_jax && tar -xzf $archive -C contrastive_jax $worker_script"
  ssh_to all "$unpack && bash contrastive_jax/$worker_script setup $archive"
}

tpu_run() { # ARGUMENTS...
  local found busy encoded='' run code=0
  need --name --zone
  # Base64 has no character that a shell on the way would interpret.
  if [ $# -gt 0 ]; then encoded="$(printf '%s\0' "$@" | base64 | tr -d '\n')"; fi
  if [ -n "$dry_run" ]; then
    echo '# if the second command prints nothing, no run is alive, and the third starts one'
    # shellcheck disable=SC2016  # for the shell that it is pasted into
    echo 'run="$(date -u +%Y%m%d-%H%M%S)-$RANDOM"'
    run=@RUN@ # replaced in what is printed
    {
      worker all check "$run"
      worker all run "$run" "$encoded"
    } | sed "s/@RUN@/'\"\$run\"'/"
    return
  fi
  run="$(date -u +%Y%m%d-%H%M%S)-$RANDOM"
  found="$(worker all check "$run")" || exit # before any worker starts: a part of the pod would wait for the others
  busy="$(grep -E ' is (alive|being started)' <<<"$found")" || true # leaves out what a login shell may print
  if [ -n "$busy" ]; then
    worker 0 release "$run" || true
    fail "$(wc -l <<<"$busy" | tr -d ' ') worker(s) are busy; $(head -n 1 <<<"$busy") -> launch/tpu.sh stop first"
  fi
  worker all run "$run" "$encoded" || code=$?
  if [ "$code" != 0 ]; then
    error 'the run may have started on some workers only -> launch/tpu.sh stop, then run again'
    exit "$code"
  fi
}

tpu_logs() {
  local workers=1 copied=0 code=0
  need --name --zone
  if [ -z "$all" ]; then
    worker "${number:-0}" log ${follow:+follow}
    return
  fi
  [ -z "$number$follow" ] || fail '--all copies the logs of all workers -> leave out --worker and --follow'
  local describe=(describe "$name" '--format=value(networkEndpoints.len())')
  if [ -n "$dry_run" ]; then
    echo '# the first command prints the number of workers; the copy is made for each, shown here for worker 0'
    tpu_vm "${describe[@]}"
  else
    workers="$(on_tpu "${describe[@]}")" || exit
  fi
  run_or_print mkdir -p "$name-logs"
  while [ "$copied" -lt "$workers" ]; do # gcloud can copy from one worker at a time
    on_tpu scp "$name:contrastive_jax/logs/run-$copied.log" "$name-logs/run-$copied.log" "--worker=$copied" || code=$?
    copied=$((copied + 1))
  done
  return "$code"
}

tpu_stop() {
  need --name --zone
  worker all stop "$grace"
}

setup_soon() { # setup; the ssh server of a new TPU may not answer at once
  local tried=1 code=0
  until (tpu_setup); do
    code=$?
    if [ "$code" = 2 ] || [ "$tried" = 5 ]; then exit "$code"; fi
    sleep "$interval"
    tried=$((tried + 1))
  done
}

tpu_up() { # ARGUMENTS...
  need_new_settings
  if [ -n "$dry_run" ]; then
    tpu_create
    tpu_setup
    tpu_run "$@"
    return
  fi
  find_tpu || exit
  if [ "$condition" = absent ]; then
    make_tpu
    find_tpu || exit
  fi
  while [ "$condition" = waiting ]; do
    echo "$(described) -> waiting"
    sleep "$interval"
    find_tpu || exit
  done
  [ "$condition" = ready ] || fail "$(described) -> $(what_to_do)"
  need_type
  setup_soon
  tpu_run "$@"
}
