"""Contrastive self-supervised vision learning in JAX: Momentum Contrast and its family."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = '0.1.0'

__all__ = ['__version__', 'load_encoder', 'losses', 'methods']

if TYPE_CHECKING:
    from contrastive_jax import losses, methods
    from contrastive_jax.pretrained import load as load_encoder
else:
    # Loaded when they are used (PEP 562), so that importing the package needs neither jax nor flax.

    def __getattr__(name: str) -> Any:
        if name in ('losses', 'methods'):
            return importlib.import_module(f'{__name__}.{name}')
        if name == 'load_encoder':
            return importlib.import_module(f'{__name__}.pretrained').load
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
