#!/usr/bin/env bash
# Passes arguments on unchanged through shells and YAML files that would interpret them. Base64 has no such character.
#   launch/encoded.sh encode ARGUMENTS...            prints them encoded
#   launch/encoded.sh run ENCODED [COMMAND WORDS...] runs COMMAND (default: python -m contrastive_jax.main) with them
set -euo pipefail

case "${1:-}" in
  encode)
    shift
    if [ $# -gt 0 ]; then printf '%s\0' "$@" | base64 | tr -d '\n'; fi
    ;;
  run)
    encoded="${2:-}"
    shift "$(($# > 2 ? 2 : $#))"
    [ $# -gt 0 ] || set -- python -m contrastive_jax.main
    mapfile -d '' -t arguments < <(printf '%s' "$encoded" | base64 -d)
    exec "$@" "${arguments[@]}"
    ;;
  *)
    echo 'launch/encoded.sh: error: no such command -> launch/encoded.sh encode ARGUMENTS, or run ENCODED' >&2
    exit 2
    ;;
esac
