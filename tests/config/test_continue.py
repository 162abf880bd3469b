"""The variant `continue` of every recipe: from given weights, with lower rates, a short warm-up and fewer epochs."""

import math

import numpy as np
import pytest

from contrastive_jax.config.check import check, check_examples, check_fields, check_init
from contrastive_jax.config.choose import choose
from contrastive_jax.config.fields import sections_of
from contrastive_jax.config.find import list_configs, variants_of
from contrastive_jax.config.overrides import flat, override
from contrastive_jax.config.plan import keep
from contrastive_jax.data.facts import DataFacts
from contrastive_jax.distributed.machine import Machine
from contrastive_jax.errors import UserError
from contrastive_jax.optim.build import base_rate, build_optimizer
from contrastive_jax.training.fit import fit
from tests import train_steps

RECIPES = [name for name in list_configs() if '/' not in name]
CPU, NODE = Machine('cpu', cores=2), Machine('gpu', 8, 80, 96)
FACTS = [(DataFacts(40, 3000), CPU), (DataFacts(2000, 32), CPU), (DataFacts(1_000_000, 500), NODE)]


@pytest.mark.parametrize('name', RECIPES)
def test_rates_and_lengths(name: str) -> None:
    assert 'continue' in variants_of(name)
    recipe, config = train_steps.load(name), train_steps.load(f'{name}:continue')
    assert config.epochs == recipe.epochs / 4 and check_fields(config) == []
    total = math.ceil(100 * config.epochs)  # with 100 steps an epoch
    rates = np.asarray(build_optimizer(config, 100, total)[1](np.arange(total)))
    assert rates.max() == pytest.approx(base_rate(recipe) / 10)
    assert rates[0] < rates.max() / 2 and rates.argmax() <= 0.051 * total, 'a short warm-up'
    assert rates[-1] < 0.1 * rates.max(), 'and a fall'


@pytest.mark.parametrize('other', ['digits', 'cifar10', 'folder', 'tiny'])
def test_the_order_of_the_variants_does_not_matter(other: str) -> None:
    for name in ('dino', 'mocov1', 'swav'):
        config = train_steps.load(f'{name}:continue,{other}')
        assert config == train_steps.load(f'{name}:{other},continue')
        rate = train_steps.load(f'{name}:{other}').optimizer.learning_rate
        assert config.optimizer.learning_rate == pytest.approx(rate / 10)


@pytest.mark.parametrize('name', RECIPES)
def test_a_folder_is_chosen_for_a_quarter_of_the_length(name: str) -> None:
    for data, machine in FACTS:
        scratch = choose(train_steps.load(f'{name}:folder'), data, machine)[0]
        config = choose(train_steps.load(f'{name}:folder,continue'), data, machine)[0]
        assert config.epochs == pytest.approx(scratch.epochs / 4, abs=1)  # rounded up
        assert config.optimizer.learning_rate == pytest.approx(scratch.optimizer.learning_rate / 10, rel=0.01)
        assert config.schedule.warmup_epochs <= config.epochs / 10
        assert check_examples(config, data.images, machine.devices) == []
        kept = {'data.image_size', 'encoder.name', 'batch_size', 'bn_group_size'}
        assert {field: flat(config)[field] for field in kept} == {field: flat(scratch)[field] for field in kept}


def test_a_length_that_the_user_names_is_kept() -> None:
    config = train_steps.load('mocov2:folder,continue,long')
    assert choose(config, *FACTS[-1])[0].epochs == 200.0
    override(config, ['--config.epochs=7', '--config.optimizer.learning_rate=0.5'], sections_of)
    chosen = choose(config, *FACTS[1])[0]
    assert (chosen.epochs, chosen.optimizer.learning_rate) == (7.0, 0.5) and chosen.schedule.warmup_epochs <= 0.7
    assert train_steps.load('mocov2:continue,tiny').steps == 2
    again = train_steps.load('mocov2:folder,continue').unlock()
    keep(again, choose(train_steps.load('mocov2:folder,continue'), *FACTS[1])[0])
    assert again.auto.continues


@pytest.mark.usefixtures('nothing_compiled')
def test_weights_must_be_given(tmp_path: object) -> None:
    config = train_steps.load('mocov2:tiny,continue')
    assert check(config, 1) == []
    (line,) = check_init(config)
    assert line.startswith("init is ''") and '--config.init=PATH' in line
    for variant in ('tiny,continue', 'folder,continue'):
        with pytest.raises(UserError, match="init is ''") as error:
            fit(train_steps.load(f'mocov2:{variant}'), f'{tmp_path}/run')
        assert error.value.field == 'init' and len(error.value.problems) == 1
    config.init = 'x'
    assert check_init(config) == check_init(train_steps.load('mocov2:tiny')) == []
