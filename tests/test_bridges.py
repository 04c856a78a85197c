"""How the shift of SAM's embedding reaches the tokens; every layout here has unequal sides and padding."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from prmagic.backbones.promptable import Embedding, Frame
from prmagic.frameworks.bridges import BRIDGE_NAMES, BRIDGES, Pad, Ridge, Similarity, normal_equations, on_patches

GRID = (3, 4)
# A photo of 60 × 80 in an input of 64: 6 × 8 of 8 × 8 cells; each patch covers 2 × 2 of them.
FRAME = Frame((60, 80), (48, 64), 64, 8)


def embedding(features):
    return Embedding(features, FRAME)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cells(patches):
    """(C, 3, 4) values on patches → (1, C, 8, 8) that are the same on all cells of a patch, and wild in the padding."""
    features = torch.full((1, len(patches), 8, 8), 1e3)
    features[..., :6, :] = patches.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return features


def fitted(bridge, features, tokens, foreground):
    return bridge.fit([embedding(z) for z in features], tokens, foreground, GRID)


@pytest.fixture
def episode():
    """Features and unit tokens of two supports and a query, and the supports' foreground."""
    features = [random(1, 5, 8, 8, seed=seed) for seed in range(3)]
    tokens = F.normalize(random(3, 12, 7, seed=3), dim=-1)
    foreground = torch.zeros(2, 12, dtype=torch.bool)
    foreground[0, 6], foreground[1, 2:5] = True, True
    return features, tokens, foreground


def test_maps_are_cut_to_the_photo_and_averaged_on_patches():
    patches = torch.arange(12.0).view(1, 3, 4)
    noise = random(1, 1, 8, 8)
    noise[..., 1::2] = -noise[..., ::2]  # averages out over each pair of columns
    got = on_patches(cells(patches) + noise, embedding(cells(patches)), GRID)
    torch.testing.assert_close(got, torch.arange(12.0)[:, None], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", BRIDGE_NAMES)
def test_no_shift_changes_nothing_and_any_other_does(name, episode):
    (*supports, query), tokens, foreground = episode
    bridge = BRIDGES[name]
    kept = fitted(bridge, supports, tokens[:2], foreground)
    support = tokens[:2].flatten(0, 1)
    still = bridge.reach(kept, support, tokens[2], embedding(query), torch.zeros_like(query), GRID)
    torch.testing.assert_close(still, support @ tokens[2].T)
    moved = bridge.reach(kept, support, tokens[2], embedding(query), 0.1 * random(1, 5, 8, 8, seed=9), GRID)
    assert moved.shape == (24, 12)
    assert (moved - still).abs().max() > 1e-3


@pytest.mark.parametrize("name", BRIDGE_NAMES)
def test_a_shift_acts_where_it_is_and_not_in_the_padding(name, episode):
    (*supports, query), tokens, foreground = episode
    bridge = BRIDGES[name]
    kept = fitted(bridge, supports, tokens[:2], foreground)

    def similarity(shift):
        return bridge.reach(kept, tokens[0], tokens[2], embedding(query), shift, GRID)

    still = similarity(torch.zeros_like(query))
    local, padding = torch.zeros_like(query), torch.zeros_like(query)
    local[..., 2:4, 6:8] = random(5, 2, 2, seed=8)  # the patch in row 1, column 3
    padding[..., 6:, :] = 100.0
    assert torch.equal(similarity(padding), still)
    changed = (similarity(local) - still).abs().amax(0) > 1e-6
    assert changed.nonzero().flatten().tolist() == [1 * 4 + 3]


class TestPad:
    def test_by_hand(self):
        tokens = torch.zeros(12, 3)
        tokens[:, 2] = 1.0
        shift = torch.zeros(2, 3, 4)
        shift[0, 1, 2], shift[1, 2, 0] = 0.5, -0.25  # channel, row, column
        support = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]])
        got = Pad().reach({}, support, tokens, embedding(cells(shift)), cells(shift), GRID)
        expected = torch.tensor([[0.0], [0.8]]).repeat(1, 12)
        expected[0, 1 * 4 + 2] = 0.5
        expected[1, 2 * 4 + 0] = 0.8 - 0.25 * 0.6
        torch.testing.assert_close(got, expected)

    def test_channels_that_the_tokens_have_not_are_left_out(self):
        tokens, shift = random(12, 2), random(3, 3, 4, seed=1)
        got = Pad().reach({}, torch.eye(2), tokens, embedding(cells(shift)), cells(shift), GRID)
        torch.testing.assert_close(got, (tokens + shift[:2].flatten(1).T).T)

    def test_keeps_nothing_and_needs_no_embedding(self):
        assert Pad().fit([], random(1, 12, 3), torch.ones(1, 12, dtype=torch.bool), GRID) == {}


class TestRidge:
    """Tokens that are a linear function of SAM's features, plus a constant of each photo."""

    LINEAR = random(4, 6, seed=5)

    def photo(self, seed):
        features = random(4, 3, 4, seed=seed)
        return cells(features), features.flatten(1).T @ self.LINEAR + random(6, seed=seed + 100)

    def test_recovers_a_linear_relation(self):
        supports, query = [self.photo(seed) for seed in range(3)], self.photo(7)
        tokens = torch.stack([tokens for _, tokens in supports])
        kept = fitted(Ridge(), [z for z, _ in supports], tokens, torch.ones(3, 12, dtype=torch.bool))
        shift = random(4, 3, 4, seed=20)
        got = Ridge().reach(kept, torch.eye(6), query[1], embedding(query[0]), cells(shift), GRID)
        expected = F.normalize(query[1] + shift.flatten(1).T @ self.LINEAR, dim=1).T
        torch.testing.assert_close(got, expected, atol=0.02, rtol=0)
        assert (F.normalize(query[1], dim=1).T - expected).abs().max() > 0.5

    def test_the_supports_count_and_so_does_the_query(self):
        supports, query = [self.photo(seed) for seed in range(2)], self.photo(7)
        shift = cells(random(4, 3, 4, seed=20))

        def reach(photos):
            tokens = torch.stack([tokens for _, tokens in photos])
            kept = fitted(Ridge(), [z for z, _ in photos], tokens, torch.ones(len(photos), 12, dtype=torch.bool))
            return Ridge().reach(kept, torch.eye(6), query[1], embedding(query[0]), shift, GRID)

        torch.testing.assert_close(reach(supports), reach(supports[::-1]), atol=1e-5, rtol=0)
        unrelated = (supports[0][0], random(12, 6, seed=50))
        assert (reach(supports) - reach([*supports, unrelated])).abs().max() > 1e-3
        assert (reach([unrelated]) - reach([unrelated, unrelated])).abs().max() > 1e-3  # the query outweighs it less

    def test_a_map_that_is_the_same_everywhere_is_survived(self):
        flat, tokens = torch.zeros(1, 4, 8, 8), random(12, 6)
        kept = fitted(Ridge(), [flat], tokens[None], torch.ones(1, 12, dtype=torch.bool))
        got = Ridge().reach(kept, torch.eye(6), tokens, embedding(flat), cells(random(4, 3, 4)), GRID)
        assert got.isfinite().all()

    def test_normal_equations_by_hand(self):
        features = torch.tensor([[1.0, 5.0], [3.0, 5.0]])  # centred: ∓1 and 0
        tokens = torch.tensor([[2.0, 0.0, 1.0], [6.0, 0.0, 0.0]])  # centred: ∓2, 0, ±½
        left, right = normal_equations(features, tokens)
        assert left.tolist() == [[2, 0], [0, 0]]
        assert right.tolist() == [[4, 0, -1], [0, 0, 0]]


class TestSimilarity:
    def test_patches_that_come_to_look_like_the_support_rise(self):
        """By hand: e₁ on the support's foreground, e₂ all over the query; the shift adds e₁ to one patch."""
        support = torch.zeros(3, 3, 4)
        support[2] = 1.0
        support[:, 1, 2] = torch.tensor([4.0, 0.0, 0.0])
        foreground = torch.zeros(1, 12, dtype=torch.bool)
        foreground[0, 1 * 4 + 2] = True
        tokens = F.normalize(torch.rand(2, 12, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
        kept = fitted(Similarity(), [cells(support)], tokens[:1], foreground)
        query, shift = torch.zeros(3, 3, 4), torch.zeros(3, 3, 4)
        query[1], shift[0, 2, 1] = 2.0, 2.0
        shift[0, 0, 3] = -2.0  # and takes it from another
        got = Similarity().reach(kept, tokens[0], tokens[1], embedding(cells(query)), cells(shift), GRID)
        factor = torch.ones(12)
        factor[2 * 4 + 1], factor[0 * 4 + 3] = 1 + math.sqrt(0.5), 1 - math.sqrt(0.5)
        torch.testing.assert_close(got, (1 + tokens[0] @ tokens[1].T) * factor - 1)

    def test_all_supports_make_the_prototype(self):
        first, second = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
        first[0], second[1] = 3.0, 100.0  # however long, each patch counts by its direction
        foreground = torch.zeros(2, 12, dtype=torch.bool)
        foreground[0, 5], foreground[1, [0, 7]] = True, True
        kept = fitted(Similarity(), [cells(first), cells(second)], random(2, 12, 5), foreground)
        expected = torch.tensor([1.0, 2.0]) / math.sqrt(5)  # one patch of the first, two of the second
        torch.testing.assert_close(kept["prototype"], expected)
