#!/usr/bin/env bash
# Prints a JobSet that trains on a TPU slice of Google Kubernetes Engine.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

usage() {
  cat <<'END'
launch/gke/jobset.sh OPTIONS -- ARGUMENTS | kubectl apply -f -

Print a JobSet that runs `python -m contrastive_jax.main ARGUMENTS` on all hosts of a TPU slice. The cluster needs JobSet
(https://jobset.sigs.k8s.io) and the Cloud Storage FUSE driver.
  --name=NAME             of the JobSet
  --image=IMAGE           made by launch/Dockerfile with DEVICE=tpu
  --bucket=BUCKET         mounted at /bucket: data and workdir belong there, such as --workdir=/bucket/runs/mocov3
  --accelerator=NAME      label cloud.google.com/gke-tpu-accelerator of the nodes, such as tpu-v6e-slice
  --topology=AxB          label cloud.google.com/gke-tpu-topology of the nodes, such as 4x4
  --chips=N               chips of one host (default 4)
  --service-account=NAME  Kubernetes service account that may use the bucket (default: default)
  --spot                  on spot nodes
  --max-restarts=N        how often the JobSet starts all hosts again (default 50)
  --grace=SECONDS         between SIGTERM, on which the run saves, and SIGKILL (default 120; spot nodes have less)

The JobSet starts again after a lost node and after each exit code of the run that is worth it (launch/README.md), with the
same arguments. It ends after exit codes 2 to 5.
END
}

fail() { # PROBLEM -> REMEDY
  echo "launch/gke/jobset.sh: error: $*" >&2
  exit 2
}

need() { # OPTION VALUE PATTERN
  [ -n "$2" ] || fail "$1 is missing -> $1=VALUE, see --help"
  [[ "$2" =~ ^($3)$ ]] || fail "$1=$2 is not legal -> see --help"
}

name='' image='' bucket='' accelerator='' topology='' chips=4 service_account=default spot='' max_restarts=50 grace=120
while [ $# -gt 0 ]; do
  value="${1#*=}"
  case "$1" in
    --) break ;;
    --name=*) name="$value" ;;
    --image=*) image="$value" ;;
    --bucket=*) bucket="${value#gs://}" ;;
    --accelerator=*) accelerator="$value" ;;
    --topology=*) topology="$value" ;;
    --chips=*) chips="$value" ;;
    --service-account=*) service_account="$value" ;;
    --spot) spot=yes ;;
    --max-restarts=*) max_restarts="$value" ;;
    --grace=*) grace="$value" ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) fail "unknown option $1 -> see --help; arguments for the training follow --" ;;
  esac
  shift
done
[ $# -gt 1 ] || fail 'no arguments for the training are given -> launch/gke/jobset.sh OPTIONS -- ARGUMENTS'
shift
need --name "$name" '[a-z]([a-z0-9-]{0,38}[a-z0-9])?' # names of pods are longer, and end at 63
need --image "$image" '[A-Za-z0-9][A-Za-z0-9._/:@-]*'
need --bucket "$bucket" '[a-z0-9][a-z0-9._-]*[a-z0-9]'
need --accelerator "$accelerator" '[a-z0-9-]+'
need --topology "$topology" '[1-9][0-9]*(x[1-9][0-9]*){1,2}'
need --chips "$chips" '[1-9][0-9]*'
need --service-account "$service_account" '[a-z0-9]([a-z0-9-]*[a-z0-9])?'
need --max-restarts "$max_restarts" '[0-9]+'
need --grace "$grace" '[0-9]+'
hosts=$((${topology//x/ * } / chips))
[ $((hosts * chips)) = $((${topology//x/ * })) ] ||
  fail "--topology=$topology has $((${topology//x/ * })) chips, which --chips=$chips does not divide -> give another"

cat <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  annotations:
    # all hosts in one node pool, which is one slice
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $max_restarts
    rules:
      - name: notAgain
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: 1
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          completionMode: Indexed
          backoffLimit: 0 # hosts cannot go on without one: the JobSet starts all of them again
          podFailurePolicy:
            rules:
              # config, data, numbers, checkpoints, no such program: the same would happen again. Not 6, workdir in use:
              # for a minute, a pod that was killed still counts as using it.
              - action: FailJob
                onExitCodes:
                  containerName: train
                  operator: In
                  values: [2, 3, 4, 5, 126, 127]
          template:
            metadata:
              annotations:
                gke-gcsfuse/volumes: "true"
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: $grace
              serviceAccountName: $service_account
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $accelerator
                cloud.google.com/gke-tpu-topology: $topology
${spot:+                cloud.google.com/gke-spot: \"true\"
}              tolerations:
                - key: google.com/tpu
                  operator: Exists
                  effect: NoSchedule
${spot:+                - key: cloud.google.com/gke-spot
                  operator: Exists
                  effect: NoSchedule
}              containers:
                - name: train
                  image: $image
                  # the arguments in base64: Kubernetes replaces \$(NAME) and \$\$ in a command
                  command: [contrastive-jax-encoded, run, "$("$here/../encoded.sh" encode "${@}")"]
                  resources:
                    limits:
                      google.com/tpu: $chips
                  volumeMounts:
                    - name: bucket
                      mountPath: /bucket
                    - name: memory
                      mountPath: /dev/shm
              volumes:
                - name: bucket
                  csi:
                    driver: gcsfuse.csi.storage.gke.io
                    volumeAttributes:
                      bucketName: $bucket
                      mountOptions: implicit-dirs
                - name: memory
                  emptyDir:
                    medium: Memory
END
