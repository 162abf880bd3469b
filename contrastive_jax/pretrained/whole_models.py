"""The state dict of a network that was pickled as a whole, `torch.save(model)`: the tensors in its attributes."""

from typing import Any

from contrastive_jax.pretrained.discover import MAX_DEPTH
from contrastive_jax.pretrained.stand_ins import Inert

MAX_NAMES = 10**6


def unfold(content: Any) -> Any:
    """The content of a file in which each network is replaced by its state dict."""
    known: dict[int, Any] = {}  # a pickle of a few bytes can have the same dict at many places

    def below(inner: Any, depth: int) -> Any:
        if isinstance(inner, Inert):
            return _state_dict(inner) if '_modules' in inner else inner
        if not isinstance(inner, dict) or depth > MAX_DEPTH or not any(isinstance(x, dict) for x in inner.values()):
            return inner
        if id(inner) not in known:
            known[id(inner)] = inner  # while it is being unfolded, for a dict that contains itself
            known[id(inner)] = {key: below(value, depth + 1) for key, value in inner.items()}
        return known[id(inner)]

    return below(content, 0)


def _state_dict(network: Inert) -> dict[str, Any]:
    state: dict[str, Any] = {}
    places: list[tuple[str, Any]] = [('', network)]
    while places and len(state) + len(places) < MAX_NAMES:
        prefix, module = places.pop()
        for kind in ('_parameters', '_buffers'):
            held = module.get(kind)
            if isinstance(held, dict):
                state.update({f'{prefix}{name}': x for name, x in held.items() if x is not None})
        inner = module.get('_modules')
        if isinstance(inner, dict) and len(prefix) < 1000:  # a network that contains itself has no end
            places += [(f'{prefix}{name}.', x) for name, x in inner.items() if isinstance(x, Inert)]
    return state
