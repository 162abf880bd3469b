# shellcheck shell=bash
# launch/tpu.sh watch: keeps a training going over preemptions and failures.
# shellcheck disable=SC2154  # the settings are those of launch/tpu.sh

broken_looks=3 # in so many looks in a row a part of the workers has ended and the rest not: the rest is stopped

note() { echo "$(date -u '+%F %T') UTC: $*"; }

tpu_watch() { # ARGUMENTS...
  # seen: the TPU has existed. making: this script has deleted it, to create it again. following: a run was started or found.
  local seen='' making='' following='' began=0 failures=0 broken=0
  need_new_settings
  if [ -n "$dry_run" ]; then
    tpu_up "$@"
    echo '# and then every --interval seconds; the last one, and all before it, if a TPU with the label was lost'
    describe_tpu
    worker all state
    remove_tpu
    return
  fi
  while :; do
    if find_tpu; then
      case "$condition" in
        ready)
          need_type
          seen=yes making=''
          follow "$@"
          ;;
        waiting)
          seen=yes making=''
          note "$(described)"
          ;;
        stopped) fail "$(described) -> $(what_to_do)" ;;
        lost)
          need_made_here
          note "$(described): deleting it, to create it again"
          seen=yes making=yes following=''
          if remove_tpu; then continue; fi
          ;;
        absent)
          [ -z "$seen" ] || [ -n "$making" ] ||
            fail "TPU $name was deleted, and not by this watch, which ends -> launch/tpu.sh watch creates it again"
          if make_tpu; then
            seen=yes making=''
            continue
          fi
          [ -n "$seen" ] || exit 1 # it may never work; after a preemption, there may be capacity later
          ;;
      esac
    fi
    sleep "$interval"
  done
}

follow() { # ARGUMENTS...: looks at the run on all workers once, and ends this script or starts the run where it has to
  local states code codes
  if ! states="$(worker_states)"; then
    note 'not all workers can be reached'
    return
  fi
  if grep -q ' is alive ' <<<"$states"; then
    if [ -z "$following" ]; then
      note "following a run that was started before: $(head -n 1 <<<"$states")"
      following=yes began="$SECONDS"
    fi
    if grep -Eq 'exit code ([1-9]|unknown)|no run yet|not installed' <<<"$states"; then
      broken=$((broken + 1))
      if [ "$broken" -ge "$broken_looks" ]; then
        note 'the run has ended on some workers only: stopping the rest'
        worker all stop "$grace" restart || true
      fi
    else
      broken=0
    fi
    return
  fi
  broken=0
  if [ -z "$following" ]; then
    begin setup "$@"
    return
  fi
  if grep -q ' was stopped' <<<"$states"; then
    note 'the run was stopped by launch/tpu.sh stop: watch ends'
    exit 0
  fi
  codes="$(sed -n 's/.* has ended, exit code //p' <<<"$states" | sort -u)"
  for code in $codes; do
    if [ "$code" != 0 ] && ! worth_a_restart "$code"; then
      error "the run has ended with exit code $code, and would again -> launch/tpu.sh logs"
      exit "$code"
    fi
  done
  if [ "$codes" = 0 ]; then
    note 'the run is finished'
    exit 0
  fi
  if [ $((SECONDS - began)) -ge "$short_seconds" ]; then failures=0; fi
  failures=$((failures + 1))
  # The cause is not the code of the workers that have lost another one, or were stopped because of it.
  code="$(grep -Ev '^(0|42|134|142)$' <<<"$codes" | tail -n 1)" || true
  code="${code:-$(tail -n 1 <<<"$codes")}"
  if [ "$failures" -gt "$retries" ]; then
    error "$failures runs in a row ended early, the last with exit code $code -> launch/tpu.sh logs"
    if [ "$code" = unknown ]; then code=1; fi
    exit "${code:-1}"
  fi
  note "the run has ended with exit code ${code:-unknown}: starting it again ($failures of $retries)"
  case "$states" in
    *'not installed'*) begin setup "$@" ;;
    *) begin again "$@" ;;
  esac
}

begin() { # setup | again, ARGUMENTS...
  local how="$1" code=0
  shift
  if [ "$how" = setup ]; then (tpu_setup) || code=$?; fi
  if [ "$code" = 0 ]; then (tpu_run "$@") || code=$?; fi
  if [ "$code" = 0 ]; then
    following=yes began="$SECONDS"
    return
  fi
  # Wrong settings or a missing Python (2) stay wrong; a new TPU may not answer yet (others).
  failures=$((failures + 1))
  if { [ "$code" = 2 ] && [ -z "$following" ]; } || [ "$failures" -gt "$retries" ]; then exit "$code"; fi
}
