"""A pod without a cloud: `gcloud compute tpus`, with directories for workers. Run as `gcloud`, see test_tpu.py.

Flags, messages and exit codes are those of Google Cloud CLI 528 (lib/surface/compute/tpus): unknown flags are refused,
`ssh` hands the command to the login shell of every worker at once and ends with the first exit code that is not 0,
`scp` copies to all workers but from one only, gcloud repeats a command whose connection broke, and nothing connects to
a TPU that was preempted. A TPU that is deleted loses its disks and its processes. Settings and state are in
$FAKE_POD/pod.json, the calls in $FAKE_POD/calls.jsonl, the home of worker N is $FAKE_POD/worker-N.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

POD = Path(os.environ.get('FAKE_POD', ''))
FLAGS: dict[str, dict[str, type]] = {
    'create': {
        '--accelerator-type': str, '--version': str, '--labels': str, '--spot': bool, '--preemptible': bool,
    },
    'describe': {'--format': str},
    'ssh': {'--worker': str, '--command': str, '--ssh-flag': str},
    'scp': {'--worker': str},
    'delete': {'--quiet': bool},
}  # fmt: skip
QUEUED_FLAGS: dict[str, dict[str, type]] = {
    'create': {
        '--node-id': str, '--accelerator-type': str, '--runtime-version': str, '--labels': str, '--spot': bool,
    },
    'describe': {'--format': str},
    'delete': {'--force': bool, '--quiet': bool},
}  # fmt: skip
TPU = 'value[separator=","](state,acceleratorType.basename(),health,labels.contrastive_jax,queuedResource.basename())'
REQUEST = 'value[separator=","](state.state,tpu.nodeSpec[0].node.labels.contrastive_jax)'


def parse(words: list[str], flags_of: dict[str, dict[str, type]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='gcloud', allow_abbrev=False)
    verbs = parser.add_subparsers(dest='verb', required=True)
    for verb, flags in flags_of.items():
        one = verbs.add_parser(verb, allow_abbrev=False)
        one.add_argument('names', nargs='+')
        for flag, kind in ({'--zone': str, '--project': str} | flags).items():
            if kind is bool:
                one.add_argument(flag, action='store_true')
            else:
                one.add_argument(flag, required=flag == '--zone')
    return parser.parse_args(words)


def shell(worker: int, command: str) -> subprocess.Popen[bytes]:
    """sshd: the login shell (bash, or sh on odd workers) in a session of its own, with next to no environment."""
    home = POD / f'worker-{worker}'
    environment = {'HOME': str(home), 'PATH': str(POD / 'bin'), 'FAKE_POD': str(POD), 'FAKE_WORKER': str(worker)}
    login_shell = 'sh' if worker % 2 else 'bash'
    return subprocess.Popen(
        [str(POD / 'bin' / login_shell), '-c', command],
        env=environment, cwd=home, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[bytes]) -> int:
    # Returns once nobody holds the pipes: a run that is not detached from them would hang here, as it does in ssh.
    out, err = process.communicate(timeout=30)
    with contextlib.suppress(ProcessLookupError):  # The connection is gone: what is left of its session gets a SIGHUP.
        os.killpg(process.pid, signal.SIGHUP)
    sys.stdout.buffer.write(out)
    sys.stderr.buffer.write(err)
    return process.returncode


def lose_disks(pod: dict) -> None:
    """What a deletion of the TPU takes with it; how the tests want trainings to be stays."""
    for worker in range(pod['workers']):
        home = POD / f'worker-{worker}'
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid = int((home / 'contrastive_jax' / 'logs' / f'run-{worker}.pid').read_text().split()[0])
            if b'contrastive_jax.main' in Path(f'/proc/{pid}/cmdline').read_bytes():
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(home / 'contrastive_jax', ignore_errors=True)
        (home / 'contrastive_jax-code.tar.gz').unlink(missing_ok=True)


def save(pod: dict, **changes: object) -> None:
    new = POD / f'pod.json.{os.getpid()}'
    new.write_text(json.dumps(pod | changes))
    new.replace(POD / 'pod.json')


def refuse(verb: str, message: str) -> int:
    print(f'ERROR: (gcloud.compute.tpus.{verb}) {message}', file=sys.stderr)
    return 1


def queued_resources(args: argparse.Namespace, pod: dict) -> int:
    name = args.names[0]
    if args.verb == 'create':
        assert args.node_id == name
        save(pod, request='WAITING_FOR_RESOURCES', type=args.accelerator_type, label=args.labels.partition('=')[2])
        return 0
    if not pod['request']:
        what = f'projects/p/locations/{args.zone}/queuedResources/{name}'
        return refuse(f'queued-resources.{args.verb}', f"NOT_FOUND: Resource '{what}' was not found.")
    if args.verb == 'describe':
        assert args.format == REQUEST
        print(pod['request'], pod['label'], sep=',')
        if pod['request'] == 'WAITING_FOR_RESOURCES':  # by the next look, there is capacity
            save(pod, request='ACTIVE', state='READY')
        return 0
    if pod['state'] and not args.force:
        return refuse('queued-resources.delete', 'FAILED_PRECONDITION: the queued resource has nodes')
    lose_disks(pod)
    save(pod, request='', state='')
    return 0


def main() -> int:
    with open(POD / 'calls.jsonl', 'a', encoding='utf-8') as calls:
        calls.write(json.dumps(['gcloud', *sys.argv[1:]]) + '\n')
    if sys.argv[1:3] != ['compute', 'tpus']:
        return 2
    pod = json.loads((POD / 'pod.json').read_text())
    if sys.argv[3] == 'queued-resources':
        args = parse(sys.argv[4:], QUEUED_FLAGS)
        return refuse(f'queued-resources.{args.verb}', pod['error']) if pod['error'] else queued_resources(args, pod)
    args = parse(sys.argv[4:], FLAGS)
    chosen = getattr(args, 'worker', None) or '0'
    workers = range(pod['workers']) if chosen == 'all' else [int(chosen)]
    if pod['error'] or (args.verb != 'create' and not pod['state']):
        absent = f"NOT_FOUND: Resource 'projects/p/locations/{args.zone}/nodes/{args.names[0]}' was not found."
        return refuse(f'tpu-vm.{args.verb}', pod['error'] or absent)
    if args.verb in ('ssh', 'scp') and pod['state'] == 'PREEMPTED':
        return refuse(f'tpu-vm.{args.verb}', 'This TPU has terminal state "PREEMPTED", so it cannot be used anymore.')
    if args.verb == 'create':
        save(pod, state='READY', type=args.accelerator_type, label=args.labels.partition('=')[2])
    elif args.verb == 'describe' and args.format == TPU:
        made_by = args.names[0] if pod['request'] else ''
        print(pod['state'], pod['type'], 'HEALTHY', pod['label'], made_by, sep=',')
    elif args.verb == 'describe' and args.format == 'value(networkEndpoints.len())':
        print(pod['workers'])
    elif args.verb == 'delete':
        lose_disks(pod)
        save(pod, state='')
    elif args.verb == 'scp':
        source, target = args.names
        for worker in workers:
            if ':' in target:
                shutil.copy(source, POD / f'worker-{worker}' / target.partition(':')[2])
            elif len(workers) > 1:
                print('cannot target multiple workers while copying files to client.', file=sys.stderr)
                return 1
            else:
                shutil.copy(POD / f'worker-{worker}' / source.partition(':')[2], target)
    elif args.verb == 'ssh':
        for _ in range(2 if pod.get('connection_breaks') else 1):
            codes = [finish(process) for process in [shell(worker, args.command) for worker in workers]]
        return next((code for code in codes if code), 0)
    return 0


if __name__ == '__main__':
    sys.exit(main())
