#!/usr/bin/env bash
# Trains on a Cloud TPU VM or pod slice: create, setup, run, logs, stop, delete. See `launch/tpu.sh --help`.
# launch/tpu_worker.sh is the part that runs on the workers. This part runs in bash 3.2 (the version of macOS) or later.
# gcloud's flags: https://cloud.google.com/sdk/gcloud/reference/compute/tpus/tpu-vm
set -euo pipefail

archive='contrastive_jax-code.tar.gz' # the working tree, in the home directory of each worker
worker_script='launch/tpu_worker.sh'  # in the working tree, and in ~/contrastive_jax of each worker

usage() {
  case "${1:-}" in
    create) cat <<'END' ;;
launch/tpu.sh create [--spot | --preemptible] [settings]

Create the TPU VM or pod slice. If a TPU of this name and type exists and is READY, it is used.
Needs --name, --zone, --accelerator-type and --runtime-version.
  --spot         cheaper capacity that Google may take back at any time
  --preemptible  the older form of --spot, which ends after 24 hours at most
END
    setup) cat <<'END' ;;
launch/tpu.sh setup [settings]

Copy the working tree (tracked files, and untracked ones that git does not ignore) to all workers, unpack it in
~/contrastive_jax/code, and install it with its [tpu] extra in ~/contrastive_jax/venv. Needs Python >= 3.11 on the VM.
Call it again after each change of the code. Files that you deleted are deleted there too; files that runs wrote are kept.
END
    run) cat <<'END' ;;
launch/tpu.sh run [settings] -- ARGUMENTS

Run `python -m contrastive_jax.main ARGUMENTS` on all workers, detached from ssh. The arguments are passed on unchanged.
Worker N writes its log to ~/contrastive_jax/logs/run-N.log. Refused while another run is alive.
END
    logs) cat <<'END' ;;
launch/tpu.sh logs [--worker=N] [--follow] | --all [settings]

Show the last 100 lines of one worker's log, or copy the logs of all workers here.
  --worker=N  which worker (default 0)
  --follow    keep printing new lines until the run ends
  --all       copy every worker's log to NAME-logs/run-N.log in the current directory
END
    stop) cat <<'END' ;;
launch/tpu.sh stop [--grace=SECONDS] [settings]

Send SIGTERM to the run on all workers, so that it saves a checkpoint and ends, and print its exit code.
  --grace=SECONDS  how long to wait for the end of the run (default 120)
END
    delete) cat <<'END' ;;
launch/tpu.sh delete [--yes] [settings]

Delete the TPU and everything on its disks, after confirmation.
  --yes  do not ask
END
    *) cat <<'END' ;;
launch/tpu.sh COMMAND [options]: train on a Cloud TPU VM or pod slice

  create   create the TPU, or use the one that exists
  setup    copy the code to all workers and install it
  run      start `python -m contrastive_jax.main ARGUMENTS` on all workers: launch/tpu.sh run -- ARGUMENTS
  logs     show, follow or copy the logs
  stop     send SIGTERM to the run on all workers: it saves a checkpoint and ends
  delete   delete the TPU
launch/tpu.sh COMMAND --help describes a command.
END
  esac
  cat <<'END'

Settings, as flags or as environment variables:
  --name=NAME              TPU_NAME          name of the TPU
  --zone=ZONE              ZONE              its zone, e.g. us-east5-b
  --project=PROJECT        PROJECT           Google Cloud project (default: that of gcloud)
  --accelerator-type=TYPE  ACCELERATOR_TYPE  e.g. v6e-8, v5litepod-32, v4-32 (create)
  --runtime-version=NAME   RUNTIME_VERSION   v2-alpha-tpuv6e for v6e, v2-alpha-tpuv5 for v5p, v2-alpha-tpuv5-lite
                                             for v5e, tpu-ubuntu2204-base for v4 and older (create)
  --dry-run                print the commands and execute nothing
  --help                   print this text

With more than one worker, gcloud needs its key in the ssh agent: ssh-add ~/.ssh/google_compute_engine
Exit codes: 0 success; 2 wrong usage, wrong settings, or another run is alive; otherwise the exit code of gcloud.
END
}

error() { echo "launch/tpu.sh: error: $*" >&2; } # PROBLEM -> REMEDY

fail() {
  error "$@"
  exit 2
}

quote() { # WORD: prints it quoted, so that any shell reads it back unchanged
  local one="'" closed="'\\''"
  case "$1" in
    '' | *[!A-Za-z0-9_./:=,@%+-]*) printf "'%s'" "${1//$one/$closed}" ;;
    *) printf '%s' "$1" ;;
  esac
}

run_or_print() {
  local word line=''
  if [ -z "$dry_run" ]; then
    "$@"
    return
  fi
  for word in "$@"; do line+="$(quote "$word") "; done
  printf '%s\n' "${line% }"
}

tpu_vm() { # VERB ARGUMENTS...: calls gcloud with the zone and the project of the TPU
  local verb="$1"
  shift
  set -- "--zone=$zone" ${project:+"--project=$project"} "$@"
  run_or_print gcloud compute tpus tpu-vm "$verb" "$@"
}

ssh_to() { # WORKER COMMAND: a login shell of the worker runs COMMAND, which therefore must not need quoting
  # -n: gcloud opens one ssh for each worker, and none of them may read from this terminal.
  tpu_vm ssh "$name" "--worker=$1" --ssh-flag=-n "--command=$2"
}

worker() { # WORKER WORDS...: runs launch/tpu_worker.sh there
  local where="$1" code=0
  shift
  ssh_to "$where" "bash contrastive_jax/$worker_script $*" || code=$?
  [ "$code" != 127 ] || fail "there is no code on $name yet -> launch/tpu.sh setup"
  return "$code"
}

need() { # SETTING...: fails with one line that lists the settings that are missing
  local setting missing=''
  for setting in "$@"; do
    case "$setting" in
      --name) [ -n "$name" ] || missing+=', --name (or TPU_NAME)' ;;
      --zone) [ -n "$zone" ] || missing+=', --zone (or ZONE)' ;;
      --accelerator-type) [ -n "$accelerator_type" ] || missing+=', --accelerator-type (or ACCELERATOR_TYPE)' ;;
      --runtime-version) [ -n "$runtime_version" ] || missing+=', --runtime-version (or RUNTIME_VERSION)' ;;
    esac
  done
  [ -z "$missing" ] || fail "settings are missing -> give ${missing#, }"
  [[ "$name" =~ ^[a-zA-Z][a-zA-Z0-9-]*$ ]] || fail "--name=$name: letters, digits and hyphens only -> give another name"
  [[ "$zone" =~ ^[a-z][a-z0-9-]*$ ]] || fail "--zone=$zone is not a zone -> give a zone such as us-east5-b"
  [ -n "$dry_run" ] || command -v gcloud >/dev/null ||
    fail 'gcloud is not installed -> install the Google Cloud CLI: https://cloud.google.com/sdk/docs/install'
}

tpu_create() {
  local found='' state='' type='' code=0
  need --name --zone --accelerator-type --runtime-version
  [ -z "$spot" ] || [ -z "$preemptible" ] || fail '--spot and --preemptible exclude each other -> give one of them'
  local describe=(describe "$name" '--format=value(state,acceleratorType.basename())')
  if [ -n "$dry_run" ]; then
    echo '# if this TPU does not exist yet, the second command creates it'
    tpu_vm "${describe[@]}"
  else
    found="$(tpu_vm "${describe[@]}" 2>"$scratch/describe")" || code=$?
    if [ "$code" != 0 ] && ! grep -q NOT_FOUND "$scratch/describe"; then
      cat "$scratch/describe" >&2
      exit "$code"
    fi
    read -r state type <<<"$found" || true
  fi
  if [ -n "$state" ]; then
    [ "$state" = READY ] ||
      fail "TPU $name exists and is $state, not READY -> wait, or delete it first: launch/tpu.sh delete"
    [ -z "$type" ] || [ "$type" = "$accelerator_type" ] ||
      fail "TPU $name exists as $type, not $accelerator_type -> give --accelerator-type=$type, or another --name"
    echo "TPU $name exists and is READY: using it"
    return
  fi
  tpu_vm create "$name" "--accelerator-type=$accelerator_type" "--version=$runtime_version" \
    ${spot:+--spot} ${preemptible:+--preemptible}
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
  local tree packed="$HOME/$archive"
  need --name --zone
  tree="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  if [ -z "$dry_run" ]; then
    git -C "$tree" rev-parse >/dev/null 2>&1 ||
      fail "$tree is not a git checkout -> launch from a checkout: git lists the files to copy"
    packed="$scratch/$archive"
  fi
  run_or_print bash -c "$(declare -f pack_tree)"$'\n''pack_tree "$@"' pack_tree "$tree" "$packed"
  tpu_vm scp "$packed" "$name:$archive" --worker=all
  # The archive contains the script that unpacks it, so this script is extracted first.
  local unpack="mkdir -p contrastive_jax && tar -xzf $archive -C contrastive_jax $worker_script"
  ssh_to all "$unpack && bash contrastive_jax/$worker_script setup $archive"
}

tpu_run() { # ARGUMENTS...
  local found encoded='' run code=0
  need --name --zone
  # Base64 has no character that a shell on the way would interpret.
  if [ $# -gt 0 ]; then encoded="$(printf '%s\0' "$@" | base64 | tr -d '\n')"; fi
  run="$(date -u +%Y%m%d-%H%M%S)-$RANDOM"
  if [ -n "$dry_run" ]; then
    echo '# if the first command prints nothing, no run is alive, and the second command starts one'
    worker all check
  else
    found="$(worker all check)" # before any worker starts: a part of the pod would wait for the others
    found="$(grep ' is alive ' <<<"$found")" || true # leaves out what a login shell may print
    [ -z "$found" ] ||
      fail "$(wc -l <<<"$found" | tr -d ' ') worker(s) are busy; $(head -n 1 <<<"$found") -> launch/tpu.sh stop first"
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
    workers="$(tpu_vm "${describe[@]}")"
  fi
  run_or_print mkdir -p "$name-logs"
  while [ "$copied" -lt "$workers" ]; do # gcloud can copy from one worker at a time
    tpu_vm scp "$name:contrastive_jax/logs/run-$copied.log" "$name-logs/run-$copied.log" "--worker=$copied" || code=$?
    copied=$((copied + 1))
  done
  return "$code"
}

tpu_stop() {
  need --name --zone
  worker all stop "$grace"
}

tpu_delete() {
  local answer=''
  need --name --zone
  if [ -z "$yes$dry_run" ]; then
    printf 'Delete TPU %s in %s, with everything on its disks? [y/N] ' "$name" "$zone" >&2
    read -r answer || true
    case "$answer" in
      y | Y | yes) ;;
      *) fail "TPU $name is not deleted -> answer y, or give --yes" ;;
    esac
  fi
  tpu_vm delete "$name" --quiet
}

name="${TPU_NAME:-}" zone="${ZONE:-}" project="${PROJECT:-}"
accelerator_type="${ACCELERATOR_TYPE:-}" runtime_version="${RUNTIME_VERSION:-}"
command='' given='' dry_run='' help='' separated=''
spot='' preemptible='' number='' follow='' all='' grace=120 yes=''

while [ $# -gt 0 ]; do
  value="${1#*=}"
  case "$1" in
    --) # the rest is passed to contrastive_jax.main
      separated=yes
      shift
      break
      ;;
    --name | --zone | --project | --accelerator-type | --runtime-version | --worker | --grace)
      [ $# -gt 1 ] || fail "$1 has no value -> $1=VALUE"
      set -- "$1=$2" "${@:3}"
      continue
      ;;
    --name=*) name="$value" ;;
    --zone=*) zone="$value" ;;
    --project=*) project="$value" ;;
    --accelerator-type=*) accelerator_type="$value" ;;
    --runtime-version=*) runtime_version="$value" ;;
    --dry-run) dry_run=yes ;;
    -h | --help) help=yes ;;
    --spot) spot=yes given+=' create:--spot' ;;
    --preemptible) preemptible=yes given+=' create:--preemptible' ;;
    --worker=*) number="$value" given+=' logs:--worker' ;;
    --follow) follow=yes given+=' logs:--follow' ;;
    --all) all=yes given+=' logs:--all' ;;
    --grace=*) grace="$value" given+=' stop:--grace' ;;
    --yes) yes=yes given+=' delete:--yes' ;;
    -*) fail "unknown option $1 -> see --help; arguments for the training follow --: launch/tpu.sh run -- ARGUMENTS" ;;
    create | setup | run | logs | stop | delete)
      [ -z "$command" ] || fail "two commands are given, $command and $1 -> give one"
      command="$1"
      ;;
    *) fail "unknown command $1 -> choose from create, setup, run, logs, stop, delete" ;;
  esac
  shift
done
if [ -n "$help" ]; then
  usage "$command"
  exit 0
fi
[ -n "$command" ] ||
  fail 'no command is given -> choose from create, setup, run, logs, stop, delete; see launch/tpu.sh --help'
for option in $given; do
  [ "${option%%:*}" = "$command" ] || fail "${option#*:} is an option of ${option%%:*}, not of $command -> leave it out"
done
[ -z "$separated" ] || [ "$command" = run ] || fail "arguments after -- are for run, not for $command -> leave them out"
[[ "$number" =~ ^[0-9]*$ ]] || fail "--worker=$number is not the number of a worker -> give 0 or more"
[[ "$grace" =~ ^[0-9]+$ ]] || fail "--grace=$grace is not a number of seconds -> give a number such as 120"
if [ -z "$dry_run" ]; then
  scratch="$(mktemp -d)"
  trap 'rm -rf "$scratch"' EXIT
fi
"tpu_$command" "$@"
