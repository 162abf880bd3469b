#!/usr/bin/env bash
# Trains by xpk (https://github.com/AI-Hypercomputer/xpk) on a cluster that `xpk cluster create` has made.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

usage() {
  cat <<'END'
launch/gke/xpk.sh OPTIONS OF xpk workload create -- ARGUMENTS

Call `xpk workload create` with a command that runs `python -m contrastive_jax.main ARGUMENTS` in an image made by
launch/Dockerfile, and with the restarts that fit its exit codes. For example:
  launch/gke/xpk.sh --cluster=my-cluster --workload=mocov3 --tpu-type=v6e-16 --docker-image=IMAGE --storage=my-bucket -- \
      --config=mocov3_vit --workdir=/my-bucket/mocov3
`xpk storage attach my-bucket --type=gcsfuse` mounts a bucket, for data and workdir. xpk restarts a workload on the exit
codes 42 and 127 to 255, and only if --max-restarts is given. Here that is 50, the codes 1 and 6 are added (launch/README.md),
and a run has 120 s to save a checkpoint after SIGTERM instead of 30. An option that is given before -- comes later and wins.
  DRY_RUN=yes  environment variable: print the command, one word a line, and execute nothing
END
}

error() { echo "launch/gke/xpk.sh: error: $*" >&2; } # PROBLEM -> REMEDY

options=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case "$1" in
    -h | --help)
      usage
      exit 0
      ;;
    --command | --command=*)
      error 'the command follows from the arguments after -- -> leave out --command'
      exit 2
      ;;
  esac
  options+=("$1")
  shift
done
if [ $# -lt 2 ]; then
  error 'no arguments for the training are given -> launch/gke/xpk.sh OPTIONS -- ARGUMENTS'
  exit 2
fi
shift
# exec: xpk sends SIGTERM to the shell that runs the command, and a shell that waits for Python would end without it.
command=(xpk workload create --max-restarts=50 "--restart-on-exit-codes=1,6" --termination-grace-period-seconds=120
  ${options[@]+"${options[@]}"} "--command=exec contrastive-jax-encoded run $("$here/../encoded.sh" encode "$@")")
if [ -n "${DRY_RUN:-}" ]; then
  printf '%s\n' "${command[@]}"
  exit
fi
command -v xpk >/dev/null || {
  error 'xpk is not installed -> pip install xpk'
  exit 2
}
exec "${command[@]}"
