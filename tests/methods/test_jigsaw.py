"""Jigsaw against loops: the set of permutations, the normalization of tiles, and tiles that are shuffled first."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.distributed import collectives
from contrastive_jax.methods import Jigsaw
from contrastive_jax.methods.jigsaw import permutations, standardize
from tests.methods.test_relative_position import layers, log_softmax
from tests.methods.tiny_encoder import network

B, P, COUNT = 6, 3, 7


def hamming(a, b) -> int:
    return sum(x != y for x, y in zip(a, b, strict=True))


def test_permutations_are_those_of_the_algorithm_in_loops():
    """Algorithm 1: the next one has the largest sum of distances to those that were chosen."""
    found = permutations(12, 4)
    chosen = [tuple(found[0])]
    rest = [p for p in itertools.permutations(range(4)) if p != chosen[0]]
    while len(chosen) < 12:
        best = max(rest, key=lambda p: sum(hamming(p, other) for other in chosen))  # the first of several
        chosen.append(best)
        rest.remove(best)
    np.testing.assert_array_equal(found, chosen)
    assert len({*map(tuple, permutations(24, 4))}) == 24, 'all of them'
    with pytest.raises(ValueError, match='25 permutations of 4 tiles: use 1 to 24'):
        permutations(25, 4)


def test_permutations_of_nine_tiles_are_far_from_one_another():
    found = permutations(30)
    assert all(sorted(p) == list(range(9)) for p in found)
    distances = [hamming(a, b) for a, b in itertools.combinations(found, 2)]
    assert np.mean(distances) > 8.2  # of random permutations 8


def test_each_channel_of_each_tile_is_standardized(rng):
    tiles = rng.uniform(size=(2, 3, 3, 4, 4, 3)).astype(np.float32)
    tiles[0, 0, 0] = 0.5
    found = np.asarray(standardize(jnp.asarray(tiles)))
    assert not found[0, 0, 0].any()
    for place in itertools.product(range(2), range(3), range(3), range(3)):
        image, r, c, channel = place
        plane = tiles[image, r, c, :, :, channel].astype(float)
        if plane.std() > 0:
            expected = (plane - plane.mean()) / plane.std()
            np.testing.assert_allclose(found[image, r, c, :, :, channel], expected, atol=1e-4)


def test_tiles_that_are_shuffled_first(rng):
    with jax.enable_x64(True):
        head = {'num_layers': 1, 'hidden_dim': 6, 'output_dim': 6, 'bias': True}
        method = Jigsaw(network(7, False, None, jnp.float64, head, None), COUNT, hidden_dim=11)
        tiles = rng.normal(size=(B, 3, 3, P, P, 3))
        params, state = method.init(jax.random.key(0), {'views': (jnp.zeros((B, P, P, 3)),)})
        params = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
        key = jax.random.key(1)
        loss, (_, metrics) = method.loss(params, state, {'views': (jnp.asarray(tiles),)}, rng=key, progress=0.0)
        labels = [int(jax.random.randint(k, (), 0, COUNT)) for k in collectives.example_keys(key, jnp.arange(B))]
    assert len(set(labels)) > 1

    encoder = params['encoder']['linear']['kernel']
    ((weight, bias),) = layers(params['projector'], 'linear_0')
    first, last = layers(params['classifier'], 'linear_0', 'linear_1')
    losses, right = [], []
    for image, label in zip(tiles, labels, strict=True):
        flat = [image[r, c] for r in range(3) for c in range(3)]
        x = []
        for tile in (flat[i] for i in permutations(COUNT)[label]):
            tile = (tile - tile.mean((0, 1))) / tile.std((0, 1))
            x.append(np.maximum(np.maximum(tile.reshape(-1) @ encoder, 0) @ weight + bias, 0))
        scores = np.maximum(np.concatenate(x) @ first[0] + first[1], 0) @ last[0] + last[1]
        losses.append(-log_softmax(scores)[label])
        right.append(scores.argmax() == label)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(metrics['pretext_top1'], np.mean(right), atol=1e-6)
