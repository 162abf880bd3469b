# shellcheck shell=bash
# Which exit codes of a run are worth a start of the same command: the table of docs/training.md, for tpu.sh and gpu.sh.
# shellcheck disable=SC2034  # used there

short_seconds=1800 # runs that end sooner count as failures; --retries of them in a row are the end

worth_a_restart() { # CODE
  case "$1" in
    0 | [2-6]) return 1 ;;     # finished; config, data, numbers, checkpoints, workdir in use: the same would happen again
    126 | 127) return 1 ;;     # there is no Python, or no contrastive_jax
    *) return 0 ;;             # 42: saved after a signal; 1, 130, 134, 137, 139, 141, 142: goes on from the last checkpoint
  esac
}
