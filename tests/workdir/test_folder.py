"""The folder of a run: what it is asked, what it refuses, and that it is whole afterwards."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from contrastive_jax.config.base import base_config
from contrastive_jax.config.check import check
from contrastive_jax.config.overrides import flat
from contrastive_jax.config.stored import complete, defaults_of
from contrastive_jax.errors import UserError
from contrastive_jax.workdir import folder
from contrastive_jax.workdir.folder import FREE, open_workdir, read_config
from tests import train_steps


def leaves(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= leaves(value, f'{prefix}{name}.') if isinstance(value, dict) else {prefix + name: value}
    return found


def another(value: Any) -> Any:
    """A value of the same type that is not this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, tuple):
        return (*value, 0.5)
    return f'{value}x'


def test_the_config_is_kept_as_json(tmp_path: Path) -> None:
    config = train_steps.load('mocov3_vit:tiny')
    path = open_workdir(str(tmp_path / 'a' / 'b'), config)
    assert path == tmp_path / 'a' / 'b'
    assert os.listdir(path) == ['config.json']  # no temporary file left
    text = (path / 'config.json').read_text()
    stored = json.loads(text)
    # JSON has lists for tuples, and nothing else differs.
    assert stored == json.loads(json.dumps(config.to_dict()))
    assert stored['optimizer']['freeze'] == ['encoder/patch_embed'] and stored['batch_size'] == 16
    assert text.endswith('}\n') and list(stored) == sorted(stored), 'for people, and for diff'


def test_the_same_config_goes_on(tmp_path: Path) -> None:
    config = train_steps.load('mocov2:tiny')
    open_workdir(str(tmp_path), config)
    before = (tmp_path / 'config.json').read_bytes()
    for mine in ('metrics.jsonl', 'notes'):
        (tmp_path / mine).write_text(mine)
    assert open_workdir(str(tmp_path), train_steps.load('mocov2:tiny')) == tmp_path
    assert (tmp_path / 'config.json').read_bytes() == before
    assert (tmp_path / 'notes').read_text() == 'notes'


@pytest.mark.parametrize('name', ['mocov1:tiny', 'mocov3_vit:tiny', 'dictionary:memory_bank,tiny'])
def test_every_field_is_free_or_refused(tmp_path: Path, name: str) -> None:
    """All of them: a field that comes to `config.base.base_config` is refused unless someone says otherwise."""
    config = train_steps.load(name).unlock()
    open_workdir(str(tmp_path), config)
    before = (tmp_path / 'config.json').read_bytes()
    free = set()
    for field, value in leaves(config.to_dict()).items():
        changed = config.copy_and_resolve_references()
        *sections, last = field.split('.')
        holder = changed
        for section in sections:
            holder = holder[section]
        holder[last] = another(value)
        try:
            open_workdir(str(tmp_path), changed)
        except UserError as error:
            assert error.exit_code == 2 and '\n' not in str(error)
            assert f'({field}: ' in str(error) and str(error).count(';') == 0
            assert (tmp_path / 'config.json').read_bytes() == before
        else:
            free.add(field)
            assert (tmp_path / 'config.json').read_bytes() != before, 'what runs now is what is kept'
            (tmp_path / 'config.json').write_bytes(before)
    assert free == {
        'log_every_steps', 'eval_every_steps', 'checkpoint_every_steps', 'profile_steps', 'parallel', 'epochs', 'steps',
        'checkpoint_every_minutes', 'keep_every_epochs', 'keep_best', 'keep_best_mode',
        'trackers', 'tracker_project',
        'max_dropped_in_row', 'data.path', 'data.eval_split', 'data.workers', 'data.on_device',
        'eval.evaluators', 'eval.knn_k', 'eval.knn_temperature', 'eval.max_train', 'eval.max_test', 'eval.batch_size',
    }  # fmt: skip


def test_all_changed_fields_are_listed(tmp_path: Path) -> None:
    open_workdir(str(tmp_path), train_steps.load('mocov2:tiny'))
    changed = train_steps.load(
        'mocov2:tiny', **{'method.temperature': 0.07, 'seed': 3, 'augment.blur': (0.0, 0.5), 'steps': 9}
    )
    with pytest.raises(UserError) as error:
        open_workdir(str(tmp_path), changed)
    assert str(error.value) == (
        f'workdir {tmp_path} holds a run of another config (augment.blur: [0.5, 0.5] -> [0.0, 0.5]; '
        'method.temperature: 0.2 -> 0.07; seed: 0 -> 3) '
        '-> choose another workdir, or give these fields their old values'
    )


def test_a_config_of_other_fields(tmp_path: Path) -> None:
    """Another method, or a config from before a field existed."""
    open_workdir(str(tmp_path), train_steps.load('mocov2:tiny'))
    with pytest.raises(UserError, match=r'method.name: moco -> end_to_end; .*method.queue_size: 64 -> \(none\)'):
        open_workdir(str(tmp_path), train_steps.load('dictionary:end_to_end,tiny'))
    stored = json.loads((tmp_path / 'config.json').read_text())
    del stored['dtype']
    (tmp_path / 'config.json').write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r'\(dtype: \(none\) -> float32\)'):
        open_workdir(str(tmp_path), train_steps.load('mocov2:tiny'))


@pytest.mark.parametrize('name', ['mocov2:tiny', 'mocov3_vit:tiny', 'cpc:tiny', 'swav:tiny'])
def test_a_field_that_did_not_exist_has_its_default(tmp_path: Path, name: str) -> None:
    """Each field in turn, and all of a section: as an earlier version would have stored the config."""
    config = train_steps.load(name)
    base = leaves(base_config(config.method.name).to_dict())
    stored, defaults = json.loads(config.to_json()), defaults_of(config)
    file = tmp_path / 'config.json'
    for field, value in leaves(stored).items():
        older = json.loads(config.to_json())
        holder = older
        *sections, last = field.split('.')
        for section in sections:
            holder = holder[section]
        del holder[last]
        file.write_text(json.dumps(older))
        default = defaults.get(field, '(none)')
        if default == value or any(field == free or field.startswith(free) for free in FREE):
            open_workdir(str(tmp_path), config, defaults=defaults)
            assert json.loads(file.read_text()) == stored, 'and then it is stored'
        else:
            with pytest.raises(UserError, match='holds a run of another config') as error:
                open_workdir(str(tmp_path), config, defaults=defaults)
            assert f'({field}: {default} -> {value})' in str(error.value)
        if field in base and not field.startswith(('encoder', 'method.name')):
            assert flat(complete(ConfigDict(older)))[field] == base[field]
    file.write_text(json.dumps({name: value for name, value in stored.items() if name != 'eval'}))
    open_workdir(str(tmp_path), config, defaults=defaults)


def test_a_stored_config_is_completed() -> None:
    config = train_steps.load('mocov2:tiny')
    older = {name: value for name, value in config.to_dict().items() if name not in ('schedule', 'chunks')}
    del older['method']['shuffle_bn'], older['optimizer']['mask']
    completed = complete(ConfigDict(older))
    assert completed.chunks == 1 and completed.method.shuffle_bn is True and completed.optimizer.mask == 'none'
    assert completed.schedule == base_config('moco').schedule and completed.batch_size == config.batch_size
    assert check(completed, 8) == [] and 'schedule' not in older
    assert complete(config) == ConfigDict(config.to_dict()), 'nothing else changes'


def test_free_fields_exist() -> None:
    fields = leaves(train_steps.load('mocov2:tiny').to_dict())
    for free in FREE:
        assert any(name == free or name.startswith(free) for name in fields), free


@pytest.mark.parametrize(
    'content', [b'', b'{', b'garbage', b'\xff\xfe\x00', b'[1, 2]', b'3', b'null', b'"text"'], ids=repr
)
def test_garbage_in_place_of_the_config(tmp_path: Path, content: bytes) -> None:
    (tmp_path / 'config.json').write_bytes(content)
    with pytest.raises(UserError) as error:
        open_workdir(str(tmp_path), train_steps.load('mocov2:tiny'))
    assert str(error.value).startswith(f'{tmp_path}/config.json is not the JSON of a run (')
    assert str(error.value).endswith('-> restore it from a copy, or choose another workdir')
    assert '\n' not in str(error.value)
    assert (tmp_path / 'config.json').read_bytes() == content, "it may be somebody else's"


def test_something_in_the_way(tmp_path: Path) -> None:
    config = train_steps.load('mocov2:tiny')
    (tmp_path / 'file').write_text('mine')
    (tmp_path / 'run' / 'config.json').mkdir(parents=True)
    for path in (tmp_path / 'file', tmp_path / 'file' / 'run', tmp_path / 'run', Path('/proc/run')):
        with pytest.raises(UserError) as error:
            open_workdir(str(path), config)
        assert str(error.value).startswith(f'cannot write to workdir {path}: ')
        assert error.value.exit_code == 2
    assert (tmp_path / 'file').read_text() == 'mine'


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions and full disks, which a test that may run as root has to pretend."""

    def refuse(path: Path, content: bytes) -> None:
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr(folder, 'write_atomically', refuse)
    with pytest.raises(
        UserError, match=f'cannot write to workdir {tmp_path}: No space left on device; free are .* -> make room'
    ):
        open_workdir(str(tmp_path), train_steps.load('mocov2:tiny'))


def test_paths_as_people_write_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = train_steps.load('mocov2:tiny')
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'real').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'real')
    for given, meant in (('~/x', 'x'), ('relative/y', 'relative/y'), ('a b/ü', 'a b/ü'), ('link', 'link')):
        assert open_workdir(given, config) == tmp_path / meant
        assert (tmp_path / meant / 'config.json').is_file()
    assert (tmp_path / 'real' / 'config.json').is_file()


def test_other_processes_write_nothing_and_still_compare(tmp_path: Path) -> None:
    config = train_steps.load('mocov2:tiny')
    open_workdir(str(tmp_path), config, write=False)
    assert os.listdir(tmp_path) == []
    open_workdir(str(tmp_path), config)
    with pytest.raises(UserError, match='seed: 0 -> 1'):
        open_workdir(str(tmp_path), train_steps.load('mocov2:tiny', seed=1), write=False)


def test_a_stored_config_is_never_code(tmp_path: Path) -> None:
    canary = tmp_path / 'canary'
    (tmp_path / 'config.json').write_text(f'__import__("pathlib").Path({str(canary)!r}).touch()')
    with pytest.raises(UserError):
        open_workdir(str(tmp_path), ConfigDict({'seed': 0}))
    assert not canary.exists()


@pytest.mark.parametrize('left', ['checkpoints', 'run.json', 'inputs.json'])
def test_a_run_whose_config_is_gone_is_refused(tmp_path, left):
    """What is left may belong to another config: nothing may go on from it, and nothing may replace it."""
    open_workdir(str(tmp_path), train_steps.load('mocov2:tiny'))
    (tmp_path / 'config.json').unlink()
    (tmp_path / left).mkdir() if left == 'checkpoints' else (tmp_path / left).write_text('{}')
    with pytest.raises(UserError, match=f'holds {left} of a run, and its config.json is gone -> restore'):
        open_workdir(str(tmp_path), train_steps.load('mocov2:tiny'))
    assert [file.name for file in tmp_path.iterdir()] == [left]


def test_the_folder_of_several_runs_names_one(tmp_path):
    for name in ('seed1', 'seed0'):
        open_workdir(str(tmp_path / name), ConfigDict({'seed': 0}))
    with pytest.raises(UserError, match=f'give the workdir of a run, such as {re.escape(str(tmp_path / "seed0"))}$'):
        read_config(tmp_path)
