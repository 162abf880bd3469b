# shellcheck shell=bash
# The TPU and its queued resource: what exists, create, delete, and what to do about a failure of gcloud.
# gcloud's flags: https://cloud.google.com/sdk/gcloud/reference/compute/tpus
# States: https://cloud.google.com/tpu/docs/reference/rest/v2/projects.locations.nodes#State
# shellcheck disable=SC2154  # the settings are those of launch/tpu.sh

label='contrastive_jax=launch' # of each TPU that `create` makes; `delete` takes no other

gcloud_tpus() { # KIND VERB ARGUMENTS...: calls gcloud with the zone and the project of the TPU
  local kind="$1" verb="$2"
  shift 2
  set -- "--zone=$zone" ${project:+"--project=$project"} "$@"
  run_or_print gcloud compute tpus "$kind" "$verb" "$@"
}

tpu_vm() { gcloud_tpus tpu-vm "$@"; } # VERB ARGUMENTS...

queued_resources() { gcloud_tpus queued-resources "$@"; } # VERB ARGUMENTS...

describe_tpu() {
  tpu_vm describe "$name" \
    '--format=value[separator=","](state,acceleratorType.basename(),health,labels.contrastive_jax,queuedResource.basename())'
}

describe_request() {
  queued_resources describe "$name" \
    '--format=value[separator=","](state.state,tpu.nodeSpec[0].node.labels.contrastive_jax)'
}

look_up() { # DESCRIBE: prints what it finds, nothing if it does not exist
  local code=0
  "$1" 2>"$scratch/error" || code=$?
  if [ "$code" = 0 ] || grep -q NOT_FOUND "$scratch/error"; then return 0; fi
  cat "$scratch/error" >&2
  explain "$code"
  return "$code"
}

# Sets what exists: state, type, health, made_here of the TPU (state '' if there is none), and `request`, the state of its
# queued resource ('' if there is none).
find_tpu() {
  local found request_name request_label
  found="$(look_up describe_tpu)" || return
  IFS=, read -r state type health made_here request_name <<<"$found" || true
  request=''
  if [ -z "$state" ] || [ "$request_name" = "$name" ]; then
    found="$(look_up describe_request)" || return
    IFS=, read -r request request_label <<<"$found" || true
    if [ -z "$state" ]; then made_here="$request_label"; fi
  fi
  case "$state/$request" in
    READY/*) condition=ready ;;
    PREEMPTED/* | TERMINATED/* | */FAILED | */SUSPENDED | */SUSPENDING) condition=lost ;;
    /) condition=absent ;;
    STOPP*/* | HID*/*) condition=stopped ;;
    *) condition=waiting ;;
  esac
}

described() { # prints what find_tpu has found
  echo "TPU $name: ${state:-no TPU}${type:+, $type}${health:+, $health}${request:+, queued resource $request}"
}

what_to_do() { # prints the remedy for the condition of the TPU, as find_tpu has set it
  case "$condition" in
    ready) echo 'if ssh fails: ssh-add ~/.ssh/google_compute_engine, or wait a minute after a restart of the TPU' ;;
    lost) echo "launch/tpu.sh delete, then create; launch/tpu.sh watch does both" ;;
    absent) echo 'launch/tpu.sh create' ;;
    stopped) echo "gcloud compute tpus tpu-vm start $name --zone=$zone, or launch/tpu.sh delete" ;;
    waiting) echo 'wait: launch/tpu.sh status shows when it is READY' ;;
  esac
}

explain() { # CODE: what to do about the failure of gcloud whose message is in $scratch/error
  case "$(cat "$scratch/error")" in
    *[Qq]uota*) error "there is no quota for this in $zone -> request it: https://cloud.google.com/tpu/docs/quota" ;;
    *RESOURCE_EXHAUSTED* | *'no more capacity'* | *'nsufficient capacity'* | *'code": 8'*)
      error "$zone has no capacity now -> create --queued, which waits for it; or another zone or type" ;;
    *PERMISSION_DENIED* | *' 403'* | *'has not been used in project'*)
      error 'the account may not do this -> gcloud auth login; gcloud services enable tpu.googleapis.com; the role TPU Admin' ;;
    *'active account'* | *Reauthentication* | *'refreshing your current auth'*)
      error 'gcloud is not logged in -> gcloud auth login' ;;
    *'core/project'* | *'property [project]'*) error 'no project is set -> give --project' ;;
    *ALREADY_EXISTS*) error "there is a TPU or a queued resource named $name -> launch/tpu.sh status" ;;
    *INVALID_ARGUMENT*) error 'the zone does not have this type or runtime version -> gcloud compute tpus' \
      "accelerator-types list --zone=$zone; gcloud compute tpus versions list --zone=$zone" ;;
    *) error "gcloud failed with exit code $1 -> launch/tpu.sh status" ;;
  esac
}

on_tpu() { # VERB ARGUMENTS...: gcloud's ssh or scp; if it fails because of the condition of the TPU, says so
  local code=0
  tpu_vm "$@" || code=$?
  case "$code" in
    0 | 2 | 127) return "$code" ;; # 2, 127: from the worker, which has said why
  esac
  if find_tpu && [ "$condition" != ready ]; then error "$(described) -> $(what_to_do)"; fi
  return "$code"
}

change() { # COMMAND...: gcloud's create or delete; after its own message, says what to do about a failure
  local code=0
  if [ -n "$dry_run" ]; then
    "$@"
    return
  fi
  { "$@" 2>&1 >&3 | tee "$scratch/error" >&2 || code="${PIPESTATUS[0]}"; } 3>&1
  if [ "$code" != 0 ]; then explain "$code"; fi
  return "$code"
}

make_tpu() {
  if [ -n "$queued" ]; then
    change queued_resources create "$name" "--node-id=$name" "--accelerator-type=$accelerator_type" \
      "--runtime-version=$runtime_version" "--labels=$label" ${spot:+--spot}
  else
    change tpu_vm create "$name" "--accelerator-type=$accelerator_type" "--version=$runtime_version" \
      "--labels=$label" ${spot:+--spot} ${preemptible:+--preemptible}
  fi
}

remove_tpu() {
  if [ -n "$request" ]; then # with --force, its TPU too
    change queued_resources delete "$name" --force --quiet
  else
    change tpu_vm delete "$name" --quiet
  fi
}

need_made_here() { # a TPU that somebody else made is never deleted
  [ "$made_here" = "${label#*=}" ] || fail "TPU $name was not made by launch/tpu.sh (it lacks the label $label)" \
    "-> if you want to lose it: gcloud compute tpus tpu-vm delete $name --zone=$zone"
}

need_new_settings() {
  need --name --zone --accelerator-type --runtime-version
  [ -z "$spot" ] || [ -z "$preemptible" ] || fail '--spot and --preemptible exclude each other -> give one of them'
  [ -z "$queued" ] || [ -z "$preemptible" ] || fail 'a queued resource is not preemptible -> give --queued --spot'
}

need_type() { # the TPU that exists is of the type that is asked for
  [ -z "$type" ] || [ "$type" = "$accelerator_type" ] ||
    fail "TPU $name exists as $type, not $accelerator_type -> give --accelerator-type=$type, or another --name"
}

tpu_create() {
  need_new_settings
  if [ -n "$dry_run" ]; then
    echo '# if neither this TPU nor its queued resource exists yet, the third command creates it'
    describe_tpu
    describe_request
    make_tpu
    return
  fi
  find_tpu || exit
  case "$condition" in
    absent) make_tpu ;;
    ready)
      need_type
      echo "TPU $name exists and is READY: using it"
      ;;
    *) fail "TPU $name exists and is not READY: $(described) -> $(what_to_do)" ;;
  esac
}

tpu_status() {
  need --name --zone
  if [ -n "$dry_run" ]; then
    describe_tpu
    describe_request
    worker all state
    return
  fi
  find_tpu || exit
  if [ "$condition" != ready ]; then
    echo "$(described) -> $(what_to_do)"
    return
  fi
  described
  worker_states
}

tpu_delete() {
  local answer='' busy=''
  need --name --zone
  if [ -n "$dry_run" ]; then
    echo '# if the first command, or the second, shows the label of launch/tpu.sh; the last if there is a queued resource'
    describe_tpu
    describe_request
    remove_tpu
    request=yes remove_tpu
    return
  fi
  find_tpu || exit
  [ "$condition" != absent ] || fail "there is no TPU $name in $zone -> check --name, --zone and --project"
  need_made_here
  if [ "$condition" = ready ]; then
    busy="$(worker_states 2>/dev/null | grep ' is alive ' | head -n 1)" || true
  fi
  if [ -z "$yes" ]; then
    [ -z "$busy" ] || echo "A run is training on it: $busy. What it has not saved is lost." >&2
    printf 'Delete TPU %s in %s, with everything on its disks? [y/N] ' "$name" "$zone" >&2
    read -r answer || true
    case "$answer" in
      y | Y | yes) ;;
      *) fail "TPU $name is not deleted -> answer y, or give --yes" ;;
    esac
  elif [ -n "$busy" ]; then
    fail "a run is training on TPU $name: $busy -> launch/tpu.sh stop first"
  fi
  remove_tpu
}
