"""The python3 of a fake worker (see fake_gcloud.py): venv and pip in no time, and a training that notes what it got.

$HOME/python_version gives another version than this one's; $HOME/training is what the training does: 'wait' for SIGTERM
and exit 42, be 'stubborn' against it, or exit with that code; several words are for several runs.
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

HOME = Path(os.environ['HOME'])


def note(file: str, **what: object) -> None:
    with open(HOME / file, 'a', encoding='utf-8') as notes:
        notes.write(json.dumps(what) + '\n')


def train(arguments: list[str]) -> int:
    note(
        'training.jsonl',
        argv=[os.fsencode(argument).hex() for argument in arguments],
        cwd=os.getcwd(),
        own_session=os.getsid(0) == os.getppid(),
        deaf_to_hangup=signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
    )
    print(f'training on {os.environ["FAKE_WORKER"]}', flush=True)
    what = (HOME / 'training').read_text() if (HOME / 'training').exists() else '0'
    if ' ' in what:  # one word for each run
        what, rest = what.split(' ', 1)
        (HOME / 'training').write_text(rest)
    if what.isdigit():
        return int(what)

    def terminate(number: int, _: object) -> None:
        note('signals.jsonl', signal=signal.Signals(number).name)
        if what == 'wait':
            time.sleep(0.2)  # a second signal would be noted too
            print('saved', flush=True)
            sys.exit(42)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, terminate)
    (HOME / 'listening').touch()
    end = time.monotonic() + 30  # nothing outlives the tests for long
    while time.monotonic() < end:
        time.sleep(0.05)
    return 1


def main(arguments: list[str]) -> int:
    if (HOME / 'python_version').exists():
        sys.version_info = tuple(json.loads((HOME / 'python_version').read_text()))  # type: ignore[assignment]
    match arguments:
        case ['-V']:
            print('Python ' + '.'.join(map(str, sys.version_info[:3])))
        case ['-c', code]:
            exec(code)
        case ['-m', 'venv', *_, where]:
            (Path(where) / 'bin').mkdir(parents=True)
            for program in ('python', 'pip'):
                shutil.copy(Path(os.environ['FAKE_POD']) / 'bin' / 'python3', Path(where) / 'bin' / program)
        case ['-m', 'pip', *rest]:
            note('pip.jsonl', argv=rest, cwd=os.getcwd())
        case ['-m', 'contrastive_jax.main', *rest]:
            return train(rest)
        case _:
            return 2
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
