"""A pod without a cloud: `gcloud compute tpus tpu-vm`, with directories for workers. Run as `gcloud`, see test_tpu.py.

Flags, messages and exit codes are those of Google Cloud CLI 528 (lib/surface/compute/tpus/tpu_vm): unknown flags are
refused, `ssh` hands the command to the login shell of every worker at once and ends with the first exit code that is
not 0, `scp` copies to all workers but from one only, and gcloud repeats a command whose connection broke. Settings and
state are in $FAKE_POD/pod.json, the calls in $FAKE_POD/calls.jsonl, the home of worker N is $FAKE_POD/worker-N.
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

POD = Path(os.environ['FAKE_POD'])
FLAGS: dict[str, dict[str, type]] = {
    'create': {'--accelerator-type': str, '--version': str, '--spot': bool, '--preemptible': bool},
    'describe': {'--format': str},
    'ssh': {'--worker': str, '--command': str, '--ssh-flag': str},
    'scp': {'--worker': str},
    'delete': {'--quiet': bool},
}


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='gcloud', allow_abbrev=False)
    verbs = parser.add_subparsers(dest='verb', required=True)
    for verb, flags in FLAGS.items():
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


def main() -> int:
    with open(POD / 'calls.jsonl', 'a', encoding='utf-8') as calls:
        calls.write(json.dumps(['gcloud', *sys.argv[1:]]) + '\n')
    if sys.argv[1:4] != ['compute', 'tpus', 'tpu-vm']:
        return 2
    args = parse(sys.argv[4:])
    pod = json.loads((POD / 'pod.json').read_text())
    chosen = getattr(args, 'worker', None) or '0'
    workers = range(pod['workers']) if chosen == 'all' else [int(chosen)]
    if pod.get('error') or (args.verb != 'create' and not pod['state']):
        absent = f"NOT_FOUND: Resource 'projects/p/locations/{args.zone}/nodes/{args.names[0]}' was not found."
        print(f'ERROR: (gcloud.compute.tpus.tpu-vm.{args.verb}) {pod.get("error") or absent}', file=sys.stderr)
        return 1
    if args.verb == 'create':
        (POD / 'pod.json').write_text(json.dumps(pod | {'state': 'READY', 'type': args.accelerator_type}))
    elif args.verb == 'describe' and args.format == 'value(state,acceleratorType.basename())':
        print(pod['state'], pod['type'], sep='\t')
    elif args.verb == 'describe' and args.format == 'value(networkEndpoints.len())':
        print(pod['workers'])
    elif args.verb == 'delete':
        (POD / 'pod.json').write_text(json.dumps(pod | {'state': ''}))
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
