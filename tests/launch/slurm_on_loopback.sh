#!/usr/bin/env bash
# Runs launch/slurm.sbatch under a real Slurm: slurmctld and two slurmd on the loopback interface, without accounting.
# For a person, not for CI: it takes about five minutes, and with TRAIN=yes two more. Needs root and `apt-get install slurmctld slurmd slurm-client`.
# PYTHON must have contrastive_jax for the last part, a training by two tasks.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
sbatch_file="$here/../../launch/slurm.sbatch"
python="${PYTHON:-$(command -v python)}"
folder="$(mktemp -d)"
export SLURM_CONF="$folder/slurm.conf"
daemons=()

finish() {
  kill "${daemons[@]}" 2>/dev/null || true
  wait "${daemons[@]}" 2>/dev/null || true
  rm -rf "$folder"
}
trap finish EXIT

host="$(hostname -s)"
nodes=("$host" localhost) # both names lead to this machine, as jax needs it
mkdir "$folder"/{state,spool-"$host",spool-localhost,home}
cat >"$SLURM_CONF" <<END
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
KillWait=15
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
NodeName=$host NodeHostname=$host NodeAddr=127.0.0.1 Port=16821 CPUs=1 State=UNKNOWN
NodeName=localhost NodeHostname=$host NodeAddr=127.0.0.1 Port=16822 CPUs=1 State=UNKNOWN
PartitionName=all Nodes=$host,localhost Default=YES State=UP OverSubscribe=FORCE:4
END
slurmctld -D >"$folder/slurmctld.log" 2>&1 &
daemons+=($!)
for node in "${nodes[@]}"; do
  slurmd -D -N "$node" >"$folder/slurmd-$node.log" 2>&1 &
  daemons+=($!)
done
for _ in {1..60}; do
  [ "$(sinfo -h -o %t 2>/dev/null)" = idle ] && break
  sleep 0.5
done
sinfo -h -o '%D nodes %t, Slurm %v' || { tail "$folder"/*.log; exit 1; }

# A Python that notes its arguments, one line of hexadecimal bytes each, and its signals, and ends with the next of the exit
# codes in $HOME/codes; 'wait' is for a signal.
cat >"$folder/python" <<'END'
#!/bin/bash
shift 2
{ for word in "$@"; do printf '%s' "$word" | od -An -v -tx1 | tr -d ' \n'; printf ' '; done; echo; } >>"$HOME/arguments.$SLURM_PROCID"
codes="$HOME/codes.$SLURM_PROCID"
code="$(head -n 1 "$codes")"
sed -i 1d "$codes"
for signal in TERM USR1 USR2; do
  # shellcheck disable=SC2064
  trap "echo $signal >>'$HOME/signals.$SLURM_PROCID'; signalled=yes" "$signal"
done
signalled=''
if [ "$code" = wait ]; then
  touch "$HOME/waiting.$SLURM_PROCID"
  while [ -z "$signalled" ]; do sleep 0.2; done
  sleep 1
  exit 42
fi
if [ "$code" = killed ]; then kill -KILL $$; fi
exit "$code"
END
chmod +x "$folder/python"

submit() { # NAME CODES_OF_TASK_0 CODES_OF_TASK_1 SBATCH_OPTIONS... -- ARGUMENTS...: sets job, and home, its folder
  local options=()
  home="$folder/home/$1"
  mkdir "$home"
  tr ' ' '\n' <<<"$2" >"$home/codes.0"
  tr ' ' '\n' <<<"$3" >"$home/codes.1"
  shift 3
  while [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  shift
  job="$(HOME="$home" PYTHON="$folder/python" sbatch --parsable --chdir="$home" --output="$home/log" --nodes=2 \
    ${options[@]+"${options[@]}"} "$sbatch_file" "$@")"
}

state() { scontrol show job "$1" | tr ' ' '\n' | grep -E '^(JobState|ExitCode|Restarts|Comment)=' | tr '\n' ' '; }

await() { # JOB PATTERN SECONDS
  local found
  for _ in $(seq "$(($3 * 2))"); do
    found="$(state "$1")"
    if [[ "$found" =~ $2 ]]; then
      echo "  $found"
      return
    fi
    sleep 0.5
  done
  echo "  expected $2 within $3 s, found: $found"
  cat "$home/log"
  exit 1
}

echo 'Arguments arrive unchanged; codes 1 and 142 are started again; the end is a success.'
# shellcheck disable=SC2016,SC1003  # not to be expanded
words=(--config=x '' "it's" '"a" $(id) `id` $HOME' $'a\nb' 'c;d|e&f' '*' '\' -- 画像)
submit again '1 142 killed 0' '142 142 142 0' -- "${words[@]}"
await "$job" 'JobState=COMPLETED.*Restarts=3|Restarts=3.*JobState=COMPLETED' 120
expected="$(for word in "${words[@]}"; do printf '%s' "$word" | od -An -v -tx1 | tr -d ' \n'; printf ' '; done)"
for task in 0 1; do
  [ "$(sort -u "$home/arguments.$task")" = "$expected" ] && [ "$(wc -l <"$home/arguments.$task")" = 4 ]
done

echo 'An error of the data on one task, while the other has lost it: the job fails with 3, and is not started again.'
submit data '142' '3' -- x
await "$job" 'JobState=FAILED.*ExitCode=3:0|ExitCode=3:0.*JobState=FAILED' 30

echo 'scancel: the tasks get SIGTERM and save; the job is not started again.'
submit cancel 'wait 0' 'wait 0' -- x
until [ -e "$home/waiting.0" ] && [ -e "$home/waiting.1" ]; do sleep 0.2; done
scancel "$job"
await "$job" 'JobState=CANCELLED' 30
sleep 8
await "$job" 'JobState=CANCELLED' 1
[ "$(cat "$home/signals.0" "$home/signals.1")" = $'TERM\nTERM' ]
grep 'ended with exit code' "$home/log" || echo '  (Slurm ended the batch script first)'

echo 'The time limit: the tasks get SIGUSR1 once each before it, and the job goes on.'
submit limit 'wait 0' 'wait 0' --time=2 --signal=USR1@30 -- x # sent up to 60 s earlier
await "$job" 'JobState=COMPLETED.*Restarts=1|Restarts=1.*JobState=COMPLETED' 240
[ "$(cat "$home/signals.0" "$home/signals.1")" = $'USR1\nUSR1' ]

if [ -n "${TRAIN:-}" ]; then
  echo 'A training by two tasks, which jax.distributed finds under Slurm, with a signal in it.'
  home="$folder/home/train"
  mkdir "$home"
  job="$(HOME="$home" PYTHON="$python" sbatch --parsable --chdir="$home" --output="$home/log" --nodes=2 \
    "$sbatch_file" --config=mocov2:tiny "--workdir=$home/run" --config.steps=2000 --connect_timeout=200)"
  until grep -q 'step 1' "$home/log" 2>/dev/null; do sleep 0.5; done
  scancel --signal=USR1 "$job" # as Slurm does before the time limit
  await "$job" 'JobState=RUNNING.*Restarts=1|Restarts=1.*JobState=RUNNING' 300
  until grep -q 'resum' "$home/log" 2>/dev/null; do sleep 0.5; done
  scancel "$job"
  await "$job" 'JobState=CANCELLED' 60
  cat "$home/log"
fi
echo 'as expected'
