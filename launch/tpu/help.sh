# shellcheck shell=bash
# The help of launch/tpu.sh.

usage() { # [COMMAND]
  case "${1:-}" in
    create) cat <<'END' ;;
launch/tpu.sh create [--queued] [--spot | --preemptible] [settings]

Create the TPU VM or pod slice. If a TPU of this name and type exists and is READY, it is used.
Needs --name, --zone, --accelerator-type and --runtime-version.
  --queued       ask by a queued resource, which waits until there is capacity; `status` shows its state
  --spot         cheaper capacity that Google may take back at any time
  --preemptible  the older form of --spot, which ends after 24 hours at most; not with --queued
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
    up) cat <<'END' ;;
launch/tpu.sh up [--queued] [--spot | --preemptible] [--interval=SECONDS] [settings] -- ARGUMENTS

create, wait until the TPU is READY, setup, and run -- ARGUMENTS.
  --interval=SECONDS  time between two looks at the TPU (default 30)
END
    watch) cat <<'END' ;;
launch/tpu.sh watch [--queued] [--spot | --preemptible] [--interval=SECONDS] [--retries=N] [settings] -- ARGUMENTS

up, and then stay: a TPU that was preempted is deleted and created again, and a run that ended with an exit code that is
worth it is started again, with the same arguments. So --workdir must be on storage that outlives the TPU.
A TPU that `create` did not make is never deleted.
watch ends when the run is finished, was stopped by `launch/tpu.sh stop`, or ended with an exit code from 2 to 6; when the
TPU was deleted by somebody; and when several runs in a row ended within 30 minutes.
  --interval=SECONDS  time between two looks at the TPU (default 30)
  --retries=N         how many short runs in a row are started again (default 5)
END
    status) cat <<'END' ;;
launch/tpu.sh status [settings]

Show the state of the TPU, of its queued resource, and of the run on each worker.
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

Send SIGTERM to the run on all workers, so that it saves a checkpoint and ends, and print its exit code. A run that is
still alive after the grace period is killed: it then goes on from its last checkpoint.
  --grace=SECONDS  how long the run may take to save and end (default 120)
END
    delete) cat <<'END' ;;
launch/tpu.sh delete [--yes] [settings]

Delete the TPU, its queued resource and everything on its disks, after confirmation. Refused for a TPU that `create` did
not make, which lacks the label contrastive_jax=launch.
  --yes  do not ask; refused while a run is alive
END
    *) cat <<'END' ;;
launch/tpu.sh COMMAND [options]: train on a Cloud TPU VM or pod slice

  create   create the TPU, or use the one that exists
  setup    copy the code to all workers and install it
  run      start `python -m contrastive_jax.main ARGUMENTS` on all workers: launch/tpu.sh run -- ARGUMENTS
  up       create, setup and run
  watch    up, and start again after a preemption or a failure, until the run is finished
  status   show the state of the TPU and of the run
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
  --accelerator-type=TYPE  ACCELERATOR_TYPE  e.g. v6e-8, v5litepod-32, v4-32 (create, up, watch)
  --runtime-version=NAME   RUNTIME_VERSION   v2-alpha-tpuv6e for v6e, v2-alpha-tpuv5 for v5p, v2-alpha-tpuv5-lite
                                             for v5e, tpu-ubuntu2204-base for v4 and older (create, up, watch)
  --dry-run                print the commands and execute nothing
  --help                   print this text

With more than one worker, gcloud needs its key in the ssh agent: ssh-add ~/.ssh/google_compute_engine
Exit codes: 0 success; 2 wrong usage, wrong settings, or another run is alive; otherwise the exit code of gcloud, or for
watch that of the run.
END
}
