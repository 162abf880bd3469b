"""The help text about fields: every field has a meaning, and what is said of it is what is checked."""

import pytest

from contrastive_jax import main
from contrastive_jax.config.base import base_config
from contrastive_jax.config.describe import describe_fields, describe_section, meanings_of
from contrastive_jax.config.fields import Optimizer, sections_of
from contrastive_jax.config.overrides import flat
from contrastive_jax.methods import METHODS
from contrastive_jax.protocols.run import PROTOCOLS
from contrastive_jax.rules import declared_fields
from tests import train_steps


@pytest.mark.parametrize('name', [*METHODS])
def test_every_field_of_a_base_config_is_described(name: str) -> None:
    text = ' '.join(describe_fields().split())  # long values are wrapped
    for field, value in flat(base_config(name)).items():
        if field not in ('encoder.name', 'method.name'):
            assert f' {field} = {value!r} (' in text, field


@pytest.mark.parametrize('name', ['mocov2:tiny', 'mocov3_vit:tiny', 'cpc:tiny', 'dino:tiny', 'swav:tiny', 'cmc:tiny'])
def test_every_field_has_a_meaning(name: str) -> None:
    for path, section in sections_of(train_steps.load(name)).items():
        meanings = meanings_of(section)
        fields = set(declared_fields(section))
        assert fields <= set(meanings), (path, fields - set(meanings))
        assert all(len(meaning) > 1 for meaning in meanings.values())


def test_a_section() -> None:
    lines = describe_section('optimizer', Optimizer, 'a note').splitlines()
    assert lines[0] == 'optimizer (a note)'
    assert "  optimizer.b1 = 0.9 (a number, at least 0 and below 1): Decay of Adam's and AdamW's mean of the" in lines
    assert all(len(line) <= 100 for line in lines)


def test_help_about_an_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    for protocol, section in PROTOCOLS.items():
        assert main.main([f'--config=eval/{protocol}', '--helpfull']) == 0
        text = capsys.readouterr().out
        for path, declares in section.sections.items():
            meanings = meanings_of(declares)
            for field in declared_fields(declares):
                assert f'\n  {f"{path}." if path else ""}{field} = ' in text and len(meanings[field]) > 9
