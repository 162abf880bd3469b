#!/bin/bash
# Measures everything on one GPU without anyone watching: each part has at most ten minutes, one that fails does not
# stop the next, each appends a JSON line, and a table ends it.
#
#     benchmarks/gpu.sh [--small] [--out FOLDER] [--minutes N] [PART ...]
#
#   --small    sizes for a CPU; taken by itself on a machine without a GPU
#   --out      the folder of results.jsonl, table.txt and a log of each part; default: runs/gpu
#   --minutes  the most that one part may take; default: 10
#   PART       only these; default: all, in the order of benchmarks/gpu.py
#
# Exit code: 0 if all parts were measured, 1 if one failed, 2 for a wrong argument.

set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
python=${PYTHON:-python}
out=runs/gpu minutes=10 small=() parts=()

usage() {
    echo "benchmarks/gpu.sh: $1 -> benchmarks/gpu.sh [--small] [--out FOLDER] [--minutes N] [PART ...]" >&2
    exit 2
}

while (($#)); do
    case $1 in
        --small) small=(--small) ;;
        --out | --minutes)
            (($# > 1)) || usage "$1 has no value"
            if [[ $1 == --out ]]; then out=$2; else minutes=$2; fi
            shift
            ;;
        -*) usage "$1 is unknown" ;;
        *) parts+=("$1") ;;
    esac
    shift
done
[[ $minutes =~ ^[1-9][0-9]*$ ]] || usage "--minutes $minutes is no whole number above 0"
((${#parts[@]})) || parts=(peak torch_step epoch vit pipeline overhead)
mkdir -p "$out" || exit 2
results=$out/results.jsonl
: >"$results"

failed=0
for part in "${parts[@]}"; do
    echo "== $part, at most $minutes min; log: $out/$part.log"
    began=$SECONDS
    # SIGKILL follows for a part that does not heed the first signal.
    timeout --kill-after=30 $((60 * minutes)) \
        "$python" -m benchmarks.gpu "$part" "${small[@]}" --json "$results" >"$out/$part.log" 2>&1
    code=$?
    if ((code == 0)); then
        echo "   done in $((SECONDS - began)) s"
    else
        failed=1 reason="exit code $code, see $part.log"
        ((code == 124 || code == 137)) && reason="stopped after $minutes min"
        echo "   failed: $reason"
        printf '{"part": "%s", "failed": "%s"}\n' "$part" "$reason" >>"$results"
        tail -n 5 "$out/$part.log"
    fi
done
"$python" -m benchmarks.gpu --table "$results" | tee "$out/table.txt"
exit "$failed"
