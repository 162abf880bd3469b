#!/usr/bin/env bash
# Trains on a Cloud TPU VM or pod slice. See `launch/tpu.sh --help`. launch/tpu/worker.sh is the part that runs on the
# workers. All other parts run in bash 3.2 (the version of macOS) or later.
# shellcheck source-path=SCRIPTDIR
set -euo pipefail

tree="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=tpu/help.sh
. "$tree/launch/tpu/help.sh"
# shellcheck source=tpu/machine.sh
. "$tree/launch/tpu/machine.sh"
# shellcheck source=tpu/training.sh
. "$tree/launch/tpu/training.sh"
# shellcheck source=tpu/watch.sh
. "$tree/launch/tpu/watch.sh"
# shellcheck source=restarts.sh
. "$tree/launch/restarts.sh"

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

name="${TPU_NAME:-}" zone="${ZONE:-}" project="${PROJECT:-}"
accelerator_type="${ACCELERATOR_TYPE:-}" runtime_version="${RUNTIME_VERSION:-}"
commands='create, setup, run, up, watch, status, logs, stop, delete'
command='' given='' dry_run='' help='' separated=''
spot='' preemptible='' queued='' number='' follow='' all='' grace=120 yes='' interval=30 retries=5
state='' type='' health='' made_here='' request='' condition='' # what find_tpu has found

while [ $# -gt 0 ]; do
  value="${1#*=}"
  case "$1" in
    --) # the rest is passed to contrastive_jax.main
      separated=yes
      shift
      break
      ;;
    --name | --zone | --project | --accelerator-type | --runtime-version | --worker | --grace | --interval | --retries)
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
    --queued) queued=yes given+=' create,up,watch:--queued' ;;
    --spot) spot=yes given+=' create,up,watch:--spot' ;;
    --preemptible) preemptible=yes given+=' create,up,watch:--preemptible' ;;
    --interval=*) interval="$value" given+=' up,watch:--interval' ;;
    --retries=*) retries="$value" given+=' watch:--retries' ;;
    --worker=*) number="$value" given+=' logs:--worker' ;;
    --follow) follow=yes given+=' logs:--follow' ;;
    --all) all=yes given+=' logs:--all' ;;
    --grace=*) grace="$value" given+=' stop:--grace' ;;
    --yes) yes=yes given+=' delete:--yes' ;;
    -*) fail "unknown option $1 -> see --help; arguments for the training follow --: launch/tpu.sh run -- ARGUMENTS" ;;
    create | setup | run | up | watch | status | logs | stop | delete)
      [ -z "$command" ] || fail "two commands are given, $command and $1 -> give one"
      command="$1"
      ;;
    *) fail "unknown command $1 -> choose from $commands" ;;
  esac
  shift
done
if [ -n "$help" ]; then
  usage "$command"
  exit 0
fi
[ -n "$command" ] ||
  fail "no command is given -> choose from $commands; see launch/tpu.sh --help"
for option in $given; do
  case ",${option%%:*}," in
    *",$command,"*) ;;
    *) fail "${option#*:} is an option of ${option%%:*}, not of $command -> leave it out" ;;
  esac
done
case "$separated$command" in
  yesrun | yesup | yeswatch) ;;
  yes*) fail "arguments after -- are for run, up and watch, not for $command -> leave them out" ;;
esac
[[ "$number" =~ ^[0-9]*$ ]] || fail "--worker=$number is not the number of a worker -> give 0 or more"
[[ "$grace" =~ ^[0-9]+$ ]] || fail "--grace=$grace is not a number of seconds -> give a number such as 120"
[[ "$interval" =~ ^[0-9]+$ ]] || fail "--interval=$interval is not a number of seconds -> give a number such as 30"
[[ "$retries" =~ ^[0-9]+$ ]] || fail "--retries=$retries is not a number -> give a number such as 5"
if [ -z "$dry_run" ]; then
  scratch="$(mktemp -d)"
  trap 'rm -rf "$scratch"' EXIT
fi
# On one line: watch runs for days, and bash must not read on from a file that was replaced meanwhile.
"tpu_$command" "$@" && exit || exit
