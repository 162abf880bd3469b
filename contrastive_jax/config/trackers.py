"""The rules of `trackers`: their packages are installed, and their project has a name."""

import importlib.util

from ml_collections import ConfigDict

from contrastive_jax.rules import Rules
from contrastive_jax.workdir.trackers import NAMES


def check_trackers(c: ConfigDict, rules: Rules) -> None:
    """Adds to `rules` what is wrong with `trackers`.

    Args:
      c: a config whose fields have the right type.
      rules: the rules of the config.
    """
    for name in c.trackers:
        if name in NAMES:  # another one has its line already
            rules.rule(
                is_installed(name),
                f'trackers {name!r} needs the package {name}, which is not installed',
                field='trackers',
                remedy=f"pip install 'contrastive_jax[{name}]', or pip install {name}",
            )
    rules.rule(
        len(set(c.trackers)) == len(c.trackers),
        f'trackers {tuple(c.trackers)!r} names one twice',
        field='trackers',
        remedy='name each once',
        value=tuple(dict.fromkeys(c.trackers)),
    )
    rules.rule(
        not c.trackers or bool(c.tracker_project.strip()),
        f'tracker_project {c.tracker_project!r} is empty',
        field='tracker_project',
        remedy='give a name',
        value='contrastive_jax',
    )


def is_installed(package: str) -> bool:
    """Whether a package can be imported; a folder of this name, such as the one that W&B writes, is none."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None
