"""The parts of docs/extending.md, as the page shows them: trained, resumed, evaluated, reported and exported."""

import importlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from ml_collections import ConfigDict

from contrastive_jax import convert, load_encoder
from contrastive_jax import main as train
from contrastive_jax.config import command_line
from contrastive_jax.errors import UserError
from contrastive_jax.methods import find_method
from contrastive_jax.training.evaluators import evaluator_class
from contrastive_jax.workdir import metrics
from tests import train_steps
from tests.complete_runs import digest, fit, saved

PAGE = (Path(__file__).parents[1] / 'docs' / 'extending.md').read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files of the page, importable."""
    folder = tmp_path_factory.mktemp('parts')
    for name, code in re.findall(r'```python\n# (\w+\.py)\n(.*?)```', PAGE, re.DOTALL):
        with (folder / name).open('a', encoding='utf-8') as file:
            file.write(code + '\n\n')
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in ('my_parts', 'my_recipe'):
        sys.modules.pop(name, None)


@pytest.fixture(scope='module')
def config(parts: Path) -> ConfigDict:
    import my_recipe

    config = my_recipe.get_config()
    config.update_from_flattened_dict(
        {'steps': 8, 'log_every_steps': 4, 'eval_every_steps': 4, 'checkpoint_every_steps': 4}
    )
    return config


@pytest.fixture(scope='module')
def trained(config: ConfigDict, parts: Path) -> Path:
    workdir = parts / 'runs' / 'stripes'
    assert isinstance(fit(config, workdir), dict)
    return workdir


def test_every_part_takes_part(config: ConfigDict, trained: Path) -> None:
    step, state = saved(config, trained)
    assert step == 8 and {'conv0', 'bn0', 'conv1', 'bn1'} == set(state.params['encoder'])
    last = metrics.read(trained)[-1]
    assert last['eval/feature_norm'] > 0 and 0 <= last['eval/knn_top1'] <= 1
    assert any('uniformity' in line and 'alignment' in line for line in metrics.read(trained))
    assert json.loads((trained / 'about.json').read_text())['run']['data'] == 'stripes'


def test_a_resumed_run_ends_with_the_same_bits(config: ConfigDict, trained: Path, tmp_path: Path) -> None:
    assert 'SIGTERM at step 3' in str(fit(config, tmp_path, at=3))
    fit(config, tmp_path)
    assert digest(saved(config, tmp_path)[1]) == digest(saved(config, trained)[1])


def test_the_number_of_devices_changes_nothing(config: ConfigDict, trained: Path, tmp_path: Path) -> None:
    """Without color: XLA does not optimize in these tests, and rounds color differently for other shapes of a batch."""
    del trained
    short, states = config.copy_and_resolve_references(), []
    short.steps = 2
    short.augment.update(jitter_probability=0.0, grayscale=0.0, blur=(0.0, 0.0))
    for count in (1, 4):
        fit(short, tmp_path / str(count), count=count)
        states.append(saved(short, tmp_path / str(count))[1])
    assert train_steps.relative_error(states[1].params, states[0].params) < 1e-5


def test_the_augmentation_is_seen(config: ConfigDict) -> None:
    """A quarter of each view is gray; what else there is does not change."""
    from contrastive_jax.config.build import build_policy

    plain = config.copy_and_resolve_references()
    plain.augment.extra = ''
    images = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), np.uint8)
    keys = jax.random.split(jax.random.key(0), 4)
    ours, theirs = (np.asarray(build_policy(c).to_rgb(build_policy(c)(keys, images, 0, 16))) for c in (config, plain))
    changed = ~np.isclose(ours, theirs, atol=1e-5).all(-1)
    assert (changed.sum(axis=(1, 2)) <= 64).all() and changed.sum() > 200
    np.testing.assert_allclose(ours[changed], 0.5, atol=1e-5)


def test_commands_of_the_page(
    trained: Path, parts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Word for word, in the folder of the page's files; those that train are parsed, and one of them is `trained`."""
    monkeypatch.chdir(parts)
    (block,) = re.findall(r'```bash\n(.*?)```', PAGE, re.DOTALL)
    for line in block.splitlines():
        path, python, m, name, *arguments = shlex.split(line)
        assert (path, python, m) == ('PYTHONPATH=.', 'python', '-m')
        with flagsaver.flagsaver():
            if arguments[0].startswith('--config=my_recipe.py'):
                command_line.parse([name, *arguments], train._check, train._sections)
            else:
                module = f'{name}.__main__' if name == 'contrastive_jax.report' else name
                assert importlib.import_module(module).main(arguments) == 0

    found = json.loads(Path('runs/stripes_knn/eval/knn.json').read_text())
    assert 0 <= found['eval/knn20_top1'] <= 1
    page = (trained / 'report.html').read_text(encoding='utf-8')
    assert 'AlignUniform' in page and 'stripes' in page
    with np.load('stripes.npz') as held:
        assert held['features'].shape == (48, 32) and held['labels'].tolist()[:3] == [0, 1, 2]
        assert held['classes'].tolist() == ['horizontal', 'vertical', 'diagonal']
    images = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), np.uint8)
    ours, again = (load_encoder(path)(images) for path in (trained, 'stripes.safetensors'))
    np.testing.assert_array_equal(ours, again)
    assert convert.main([str(trained), 'stripes.jaxexport']) == 0
    capsys.readouterr()
    for out, line in (
        ('stripes.pth', 'has no counterpart in torchvision or timm -> write a .jaxexport file'),
        ('stripes.py', 'is a class of your own, which has no code for PyTorch here -> write a .jaxexport file'),
        ('stripes/', 'timm has no my_parts:ConvNet -> write a .jaxexport file'),
    ):
        assert convert.main([str(trained), out]) == 2
        assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ('find', 'name', 'line'),
    [
        (find_method, 'my_parts:Nothing', "method.name 'my_parts:Nothing': my_parts has no 'Nothing' -> "),
        (find_method, 'my_parts:ConvNet', "method.name 'my_parts:ConvNet' is no method -> subclass"),
        (find_method, 'no_such_module:X', "method.name 'no_such_module:X' cannot be imported (ModuleNotFoundError"),
        (find_method, 'moca', "method.name 'moca' is unknown; did you mean 'moco'? -> choose from"),
        (evaluator_class, 'my_parts:Stripes', "eval.evaluators 'my_parts:Stripes' is no Evaluator -> subclass"),
        (evaluator_class, 'knm', "eval.evaluators 'knm' is unknown; did you mean 'knn'? -> choose from"),
    ],
)
def test_what_cannot_be_found(find: object, name: str, line: str, parts: Path) -> None:
    with pytest.raises(UserError) as error:
        find(name)  # type: ignore[operator]
    assert str(error.value).startswith(line)
