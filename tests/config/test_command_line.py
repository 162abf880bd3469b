"""Mistakes in a command: one readable line each, exit code 2 or 3, and no files are left.

`main.main` runs in this process, so what is tested is what a user reads. tests/test_main.py has what needs a process.
"""

import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from absl.testing import flagsaver
from ml_collections import ConfigDict
from PIL import Image

from contrastive_jax import main
from contrastive_jax.config import command_line
from contrastive_jax.errors import UserError
from contrastive_jax.training import fit
from contrastive_jax.workdir.folder import open_workdir

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / 'configs'
TINY = f'--config={CONFIGS}/mocov2.py:tiny'
VIT = f'--config={CONFIGS}/mocov3_vit.py:tiny'
IMAGENET = f'--config={CONFIGS}/mocov3_vit.py'

Complaint = Callable[..., list[str]]


def parse(args: list[str]) -> tuple[ConfigDict, str]:
    """Parses a command line that is right, as `main` does."""
    return command_line.parse(args, main._check, main._sections)


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The state of a new process: no flags are set, and the cache and the home folder are empty."""
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.delenv('TFDS_DATA_DIR', raising=False)
    with flagsaver.flagsaver():
        yield


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return tmp_path / 'runs' / 'one'


@pytest.fixture
def complaint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Complaint:
    """Runs a command that must be refused and returns its lines. It may compile nothing and write no workdir."""

    def run(*args: str, code: int = 2) -> list[str]:
        # The trainer is what compiles; every mistake here is found before.
        monkeypatch.setattr(fit, 'build_trainer', lambda *_: pytest.fail('the run would have begun'))
        monkeypatch.setattr(sys, 'argv', ['main.py', *args])
        with pytest.raises(SystemExit) as stop:
            sys.exit(main.main())
        text = capsys.readouterr()
        lines = text.err.splitlines()
        assert stop.value.code == code, lines
        assert lines and all(line.startswith('contrastive_jax: error: ') for line in lines), text.err
        assert text.out == '' or text.out.startswith('reading the data ('), 'at most how the data is understood'
        assert 'Traceback' not in text.err and ' at 0x' not in text.err
        for arg in args:
            if arg.startswith('--workdir=/'):
                assert not Path(arg.removeprefix('--workdir=')).parent.exists(), 'a refused command leaves nothing'
        return [line.removeprefix('contrastive_jax: error: ') for line in lines]

    return run


# ================================ config file and workdir ================================


@pytest.mark.parametrize(
    ('args', 'line'),
    [
        ((), 'no --config given -> e.g. --config='),
        (('--config',), '--config has no value -> e.g. --config='),
        (('--config=',), '--config has no value -> e.g. --config='),
        ((TINY,), 'no --workdir given -> name a folder'),
        ((TINY, '--workdir='), 'no --workdir given -> name a folder'),
        ((TINY, '--workdir'), 'Missing value for flag --workdir'),
    ],
)
def test_config_and_workdir_are_needed(complaint: Complaint, args: tuple[str, ...], line: str) -> None:
    (given,) = complaint(*args)
    assert given.startswith(line)


def test_epochs_beside_steps(complaint: Complaint, workdir: Path) -> None:
    """A recipe of a length in steps would train those, whatever the epochs are."""
    (line,) = complaint(TINY, f'--workdir={workdir}', '--config.epochs=3')
    assert line.startswith(
        '--config.epochs has no effect, because the config has steps 2, which come first -> give --c'
    )
    config, _ = parse(['main', TINY, f'--workdir={workdir}', '--config.epochs=3', '--config.steps=0'])
    assert (config.epochs, config.steps) == (3.0, 0)


def test_flags_of_an_earlier_call_are_forgotten(complaint: Complaint, workdir: Path) -> None:
    """One call after the other in a program: `--rollback` above all must not be taken over."""
    (line,) = complaint(TINY, f'--workdir={workdir}', '--rollback=3', '--verbose', '--config.steps=-1')
    assert line.startswith('steps -1 ') and main.FLAGS.rollback == 3
    (line,) = complaint(TINY)
    assert line.startswith('no --workdir given')
    assert main.FLAGS.rollback is None and not main.FLAGS.verbose


def test_a_missing_config_file_names_its_neighbours(complaint: Complaint, workdir: Path) -> None:
    (line,) = complaint(f'--config={CONFIGS}/mocov4.py:tiny', f'--workdir={workdir}')
    assert line.startswith(f'config file {CONFIGS}/mocov4.py does not exist; did you mean {CONFIGS}/mocov')
    assert '? -> choose from ' in line
    assert all(f'{CONFIGS}/{name}.py' in line for name in ('mocov1', 'mocov2', 'mocov3_r50', 'mocov3_vit'))
    assert '__init__' not in line
    (line,) = complaint('--config=/no/such/folder/x.py', f'--workdir={workdir}')
    assert line.startswith('config file /no/such/folder/x.py does not exist -> choose from barlow_twins, byol, ')


@pytest.mark.parametrize(
    ('variant', 'meant'), [('digit', 'digits'), ('symetric', 'symmetric'), ('tiny,cifar', 'cifar10')]
)
def test_an_unknown_variant_names_the_one_that_was_meant(
    complaint: Complaint, workdir: Path, variant: str, meant: str
) -> None:
    (line,) = complaint(f'--config={CONFIGS}/mocov2.py:{variant}', f'--workdir={workdir}')
    wrong = variant.split(',')[-1]
    assert f"unknown variant '{wrong}'; did you mean '{meant}'? -> choose from long, r18, cifar10, " in line


@pytest.mark.parametrize(
    ('code', 'line'),
    [
        ('def get_config():\n    x = 0\n    return 1 / x\n', 'fails at {file}:3: division by zero'),
        # The mistake is in the config, and shows inside a library.
        (
            'from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict().nope\n',
            'fails at {file}:3: ',
        ),
        ('def get_config():\n    return (1\n', "fails at {file}:2: '(' was never closed"),
        ('import nonesuch\n', "fails at {file}:1: No module named 'nonesuch'"),
        ('def get_config():\n    return int("x")\n', 'fails at {file}:2: invalid literal for int() with base 10: '),
        (
            'from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({}).update(3)\n',
            'fails at {file}:3: ',
        ),
        ('def get_config(x):\n    raise RuntimeError\n', 'config {file}: get_config needs a variant -> give {file}:VA'),
        ('x = 3\n', 'config {file}: there is no function get_config -> define get_config'),
        ('def get_config():\n    pass\n', 'get_config of {file} returns NoneType -> return the config'),
        (
            'from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({"batch_size": 8})\n',
            'the config lacks augment, bn_group_size, ',
        ),
    ],
)
def test_a_mistake_in_a_config_file_names_its_line(
    complaint: Complaint, workdir: Path, tmp_path: Path, code: str, line: str
) -> None:
    file = tmp_path / 'mine.py'
    file.write_text(code)
    (given,) = complaint(f'--config={file}', f'--workdir={workdir}')
    assert line.format(file=file) in given


# ================================ fields and options ================================


@pytest.mark.parametrize(
    ('args', 'line'),
    [
        (['--config.metod.temperature=1'], "has no field 'metod.temperature'; did you mean 'method.temperature'?"),
        (['--config.metod.x=1'], "the config has no field 'metod.x'; did you mean 'method'? -> --helpfull lists all"),
        (['--config.method.temprature=1'], "did you mean 'method.temperature'?"),
        (['--config.temperature=1'], "did you mean 'method.temperature'?"),
        (['--config.momentum=1'], "did you mean 'method.momentum' or 'optimizer.momentum'?"),
        (['--config.image_size=32'], "no field 'image_size'; did you mean 'data.image_size'?"),
        (['--config.optimizer.batch_size=32'], "did you mean 'batch_size' or 'eval.batch_size'?"),
        (['--config.lr=3'], "--config.lr=3: the config has no field 'lr'; did you mean 'optimizer.learning_rate'?"),
        (['--config.batch_size=abc'], '--config.batch_size=abc: an integer is needed -> e.g. --config.batch_size=256'),
        (['--config.batch_size=1e3'], '=1e3: an integer is needed -> e.g. --config.batch_size=1000'),
        (['--config.batch_size=16.5'], 'an integer is needed'),
        (['--config.batch_size='], 'an integer is needed'),
        (['--config.batch_size=None'], 'an integer is needed'),
        (['--noconfig.batch_size'], 'only a field that is True or False can be negated -> write --config.batch_size=V'),
        (['-config.batch_size=abc'], '--config.batch_size=abc: an integer is needed'),
        (['--config.epochs=x'], '--config.epochs=x: a number is needed -> e.g. --config.epochs=200.0'),
        (['--config.batch_size'], '--config.batch_size has no value -> write --config.batch_size=VALUE'),
        (['--config.method.symmetric=maybe'], 'True or False is needed -> write --config.method.symmetric=true or'),
        (
            ['--config.encoder=resnet50'],
            'this is a section of fields -> set one of them: --config.encoder.name=resnet50',
        ),
        (
            ['--config.augment.crop_scale=(a,b)'],
            "a tuple of 2 numbers is needed -> e.g. --config.augment.crop_scale='(0.2",
        ),
        (
            ['--config.schedule.milestones=abc'],
            "a tuple of numbers is needed -> e.g. --config.schedule.milestones='(120",
        ),
        (['--config.schedule.milestones=None'], 'a tuple of numbers is needed'),
        (['--config.schedule.milestones=(1,None)'], 'a tuple of numbers is needed'),
        (['--config.schedule.milestones='], 'a tuple of numbers is needed'),
        (['--config.optimizer.freeze=5'], 'a tuple of strings is needed -> e.g. --config.optimizer.freeze="(\'enc'),
        (['--config.optimizer.freeze=None'], 'a tuple of strings is needed'),
        (['--config.optimizer.rate_factors=(1,2)'], 'a tuple of tuples, each with a string and a number is needed'),
        (['--config.augment=None'], 'this is a section of fields'),
        (['lr=3'], "unexpected argument 'lr=3'; did you mean --config.lr=3? -> options start with --"),
        (['batch'], "unexpected argument 'batch' -> options start with --"),
        (['--nope=3'], 'unknown option --nope=3 -> --help lists'),
        (['--wrkdir=x'], "unknown option --wrkdir=x; did you mean '--workdir'?"),
        (['--num_processes=x'], "flag --num_processes=x: invalid literal for int() with base 10: 'x'"),
        (['--process_id=1'], 'give all of coordinator_address, num_processes, process_id, or none'),
        (['--config.steps=-1'], 'steps -1 is out of range -> it must be at least 0'),
        (['--config.seed=1', '--config.seed=-2'], 'seed -2 is out of range'),  # the last one counts
    ],
)
def test_one_mistake_is_one_line(complaint: Complaint, workdir: Path, args: list[str], line: str) -> None:
    (given,) = complaint(TINY, f'--workdir={workdir}', *args)
    assert line in given


def test_a_value_apart_from_its_field(complaint: Complaint, workdir: Path) -> None:
    assert complaint(TINY, f'--workdir={workdir}', '--config.batch_size', '16') == [
        '--config.batch_size has no value -> write --config.batch_size=VALUE',
        "unexpected argument '16' -> options start with --",
    ]


def test_a_stray_argument_does_not_hide_what_follows(complaint: Complaint, workdir: Path) -> None:
    (line,) = complaint('lr=3', TINY, f'--workdir={workdir}')
    assert line.startswith("unexpected argument 'lr=3'"), 'and the workdir behind it is seen'


def test_all_mistakes_come_at_once(complaint: Complaint) -> None:
    """Mistakes anywhere on the command line are reported together with illegal values."""
    lines = complaint(
        'lr=3',
        VIT,
        '--config.batch_size=abc',
        '--config.metod.x=3',
        '--wrkdir=runs',
        '--config.epochs',
        '--config.steps=-1',
        '--config.method.temperature=0',
        '--config.augment.flip=2',
        '--config.optimizer.freeze=encoder/patch_embd',
    )
    starts = (
        '--config.batch_size=abc: ',
        '--config.metod.x=3: ',
        '--config.epochs has no value',
        "unexpected argument 'lr=3'",
        'unknown option --wrkdir=runs',
        'no --workdir given',
        'steps -1 ',
        'method.temperature 0.0 ',
        'augment.flip 2.0 is out of range',
        "optimizer.freeze 'encoder/patch_embd' matches no parameter; did you mean 'encoder/patch_embed'?",
    )
    for start in starts:
        assert sum(line.startswith(start) for line in lines) == 1, (start, lines)
    assert len(lines) == len(starts)


def test_all_impossible_values_come_at_once(complaint: Complaint, workdir: Path) -> None:
    given = {
        'batch_size': '30',
        'steps': '-1',
        'epochs': '0',
        'method.temperature': 'nan',
        'method.queue_size': '31',
        'optimizer.name': 'adan',
        'encoder.name': 'resnt50',
        'projector.output_dim': '0',
        'eval.batch_size': '0',
    }
    lines = complaint(TINY, f'--workdir={workdir}', *(f'--config.{name}={value}' for name, value in given.items()))
    for name in given:
        assert sum(line.startswith(name) for line in lines) == 1, (name, lines)
    assert len(lines) == len(given)


def test_overrides_reach_the_config(workdir: Path) -> None:
    args = [
        '--config.batch_size=32',
        '-config.method.temperature=0.5',
        '--config.method.symmetric',
        f'--workdir={workdir}',
    ]
    config, path = parse(['main.py', *args, TINY])  # in any order
    assert (config.batch_size, config.method.temperature, config.method.symmetric) == (32, 0.5, True)
    assert path == str(CONFIGS / 'mocov2.py') and main.FLAGS.workdir == str(workdir)
    config, _ = parse(['main.py', TINY, '--noconfig.method.symmetric', f'--workdir={workdir}'])
    assert (config.batch_size, config.method.symmetric) == (16, False), 'nothing is left of an earlier command'
    with pytest.raises(AttributeError):
        config.batchsize = 3


def test_a_recipe_goes_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A recipe is found from any folder, also by the path that it has in a checkout."""
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    for name in ('mocov2', 'configs/mocov2.py'):
        config, given = parse(['main.py', f'--config={name}:tiny', '--workdir=run'])
        assert (config.data.source, config.steps, given) == ('digits', 2, name)
    assert sys.path == path, 'nothing in the folder of the package may hide another module'


def test_parsing_takes_what_it_is_given(monkeypatch: pytest.MonkeyPatch, workdir: Path) -> None:
    monkeypatch.setattr(sys, 'argv', ['other', '--config.batch_size=8', '--config.metod.x=1'])
    assert parse(['main.py', TINY, f'--workdir={workdir}'])[0].batch_size == 16


# ================================ data ================================


def test_imagenet_that_is_not_here(
    complaint: Complaint, workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)  # importing it would raise
    start = time.monotonic()
    line, hint = complaint(IMAGENET, f'--workdir={workdir}')
    assert time.monotonic() - start < 10
    there = tmp_path / 'home' / 'tensorflow_datasets'
    for part in (
        f"looked for '{there}/imagenet2012/",
        'tensorflow_datasets is not installed',
        'pip install tensorflow-datasets',
        f'tfds build imagenet2012 --data_dir={there} --file_format=array_record',
        'set data.path to',
    ):
        assert part in line
    assert hint.endswith(f': {IMAGENET}:digits')
    assert parse(['main.py', hint.split()[-1], f'--workdir={workdir}'])[0].data.source == 'digits'


def test_imagenet_with_tensorflow_datasets(
    complaint: Complaint, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'tensorflow_datasets', types.ModuleType('tensorflow_datasets'))
    line, _ = complaint(IMAGENET, f'--workdir={workdir}')
    assert 'looked for' in line and 'tfds build imagenet2012' in line and 'not installed' not in line


def test_prepared_imagenet_without_tensorflow_datasets(
    complaint: Complaint, workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
    folder = tmp_path / 'data' / 'imagenet2012' / '5.1.0'
    folder.mkdir(parents=True)
    (folder / 'dataset_info.json').write_text('{"splits": [{"name": "train"}, {"name": "validation"}]}')
    (folder / 'imagenet2012-train.array_record-00000-of-00001').write_bytes(b'')
    line, hint = complaint(IMAGENET, f'--workdir={workdir}', f'--config.data.path={tmp_path}/data')
    assert f"'{folder}' is prepared, but reading it needs tensorflow_datasets" in line
    assert 'pip install tensorflow-datasets' in line and hint.endswith(':digits')


def test_other_mistakes_bring_no_hint_about_data(complaint: Complaint, workdir: Path) -> None:
    (line,) = complaint(IMAGENET, f'--workdir={workdir}', '--config.data.image_size=225')
    assert line == 'data.image_size 225 % encoder.patch_size 16 = 1 -> use 224 or 240: --config.data.image_size=240'


@pytest.mark.parametrize(
    ('fields', 'code', 'line'),
    [
        ({'source': 'folder'}, 2, "data.source 'folder' needs data.path -> set data.path to the folder"),
        ({'source': 'npz'}, 2, "data.source 'npz' needs data.path -> set data.path to the .npz file"),
        ({'source': 'folder', 'path': '/no/where'}, 3, "data.path '/no/where' does not exist; a folder of images"),
        ({'source': 'npz', 'path': '/no/where.npz'}, 3, "data.path '/no/where.npz' does not exist; an .npz file"),
        ({'source': 'folder', 'path': 'gs://bucket/x'}, 2, "'gs://bucket/x' is not a local path -> mount the"),
        ({'source': 'foldr'}, 2, "data.source 'foldr' is unknown; did you mean 'folder'?"),
        ({'split': 'trian'}, 2, "digits has no split 'trian'; did you mean 'train'?"),
        ({'eval_split': 'tset'}, 2, "digits has no split 'tset'; did you mean 'test'?"),
    ],
)
def test_data_that_is_not_there(
    complaint: Complaint, workdir: Path, fields: dict[str, str], code: int, line: str
) -> None:
    settings = [f'--config.data.{name}={value}' for name, value in fields.items()]
    name = [] if 'split' in str(fields) else ['--config.data.name=']
    (given,) = complaint(TINY, f'--workdir={workdir}', *name, *settings, code=code)
    assert line in given


def test_the_folder_variant_asks_for_a_folder(complaint: Complaint, workdir: Path, tmp_path: Path) -> None:
    config = f'--config={CONFIGS}/mocov2.py:folder'
    assert 'needs data.path -> set data.path to the folder' in complaint(config, f'--workdir={workdir}')[0]
    (tmp_path / 'empty').mkdir()
    (line,) = complaint(config, f'--workdir={workdir}', f'--config.data.path={tmp_path}/empty', code=3)
    assert f"no images in '{tmp_path}/empty': it has 0 other files" in line
    Image.new('RGB', (4, 4)).save(tmp_path / 'empty' / 'one.png')
    (line,) = complaint(config, f'--workdir={workdir}', f'--config.data.path={tmp_path}/empty')
    assert line == '1 images are fewer than batch_size 8 -> use more images'


# ================================ workdir ================================


def test_an_existing_run_is_not_touched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """No mistake changes what an existing run has written; `complaint` tests workdirs that do not exist yet."""
    workdir = tmp_path / 'run'
    config, _ = parse(['main.py', TINY, f'--workdir={workdir}'])
    open_workdir(str(workdir), config)
    (workdir / 'checkpoints' / '2').mkdir(parents=True)
    (workdir / 'checkpoints' / '2' / 'data').write_bytes(b'weights')
    (workdir / 'metrics.jsonl').write_text('{"step": 2}\n')

    def content() -> dict[str, tuple[int, bytes]]:
        # ended.json tells how the last start ended, also that of a refused one.
        files = sorted(path for path in workdir.rglob('*') if path.is_file() and path.name != 'ended.json')
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = content()
    monkeypatch.setattr(fit, 'build_trainer', lambda *_: pytest.fail('the run would have begun'))
    for wrong, code, line in (
        ('--config.batch_size=x', 2, 'an integer is needed'),
        ('--config.batch_size=-1', 2, 'out of range'),
        ('--config.data.source=tfds', 2, 'TFDS'),
        ('--config.method.temperature=0.3', 2, 'holds a run of another config (method.temperature: 0.2 -> 0.3)'),
    ):
        monkeypatch.setattr(sys, 'argv', ['main.py', TINY, f'--workdir={workdir}', wrong])
        with pytest.raises(SystemExit) as stop:
            sys.exit(main.main())
        assert stop.value.code == code and line in capsys.readouterr().err
        assert content() == before


def test_a_workdir_that_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / 'file').write_text('mine')
    monkeypatch.setattr(fit, 'build_trainer', lambda *_: pytest.fail('the run would have begun'))
    for workdir in (tmp_path / 'file', tmp_path / 'file' / 'run', Path('/proc/run')):
        monkeypatch.setattr(sys, 'argv', ['main.py', TINY, f'--workdir={workdir}'])
        with pytest.raises(SystemExit) as stop:
            sys.exit(main.main())
        assert stop.value.code == 2
        assert f'cannot write to workdir {workdir}: ' in capsys.readouterr().err
    assert (tmp_path / 'file').read_text() == 'mine'


# ================================ errors on request ================================


def test_the_traceback_is_there_for_those_who_ask(monkeypatch: pytest.MonkeyPatch, workdir: Path) -> None:
    args = [TINY, f'--workdir={workdir}', '--config.batch_size=-1', '--verbose_errors']
    monkeypatch.setattr(sys, 'argv', ['main.py', *args])
    with pytest.raises(UserError, match='batch_size -1 is out of range'):
        sys.exit(main.main())
    assert not os.path.exists(workdir)
