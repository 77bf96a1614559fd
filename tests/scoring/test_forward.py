import dataclasses

import numpy as np
import pytest
import torch

from ilp_mlflow.scoring import forward
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.tokens import token_trees

DRAWN = [[5, 6, 7, 8], [5, 6, 9, 8, 4]]
OTHER = [[9, 8, 7, 6, 5, 4]]


@pytest.fixture(scope="module")
def loaded(tiny_model):
    found = loading.load_model([str(tiny_model)])
    found.model.eval()
    return found


@pytest.fixture
def trees():
    return [token_trees.build_tree(DRAWN, [2, 2]), token_trees.build_tree(OTHER, [1])]


def plain(loaded, sequence, start):
    """Log-probability of a sequence from `start` on, and each token's logit less the best other."""
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([sequence])).logits[0]
    total, gaps = 0.0, []
    for place in range(start, len(sequence)):
        row, token = logits[place - 1], sequence[place]
        total += float(row.log_softmax(-1)[token])
        others = torch.cat([row[:token], row[token + 1 :]])
        gaps.append(float(row[token] - others.max()))
    return total, gaps


@pytest.mark.parametrize("as_trees", [True, False])
def test_every_sequence_scores_as_in_a_plain_pass(loaded, trees, as_trees):
    drawn, other = forward.forward(trees, loaded, as_trees)
    expected = [plain(loaded, sequence, 2) for sequence in DRAWN]
    assert drawn.logprobs == pytest.approx([total for total, _ in expected], abs=1e-4)
    assert drawn.gaps == pytest.approx(expected[0][1], abs=1e-4)
    total, gaps = plain(loaded, OTHER[0], 1)
    assert other.logprobs == pytest.approx([total], abs=1e-4)
    assert other.gaps == pytest.approx(gaps, abs=1e-4)


def test_a_node_sees_the_nodes_on_its_path_only(loaded, trees):
    ends = np.zeros((1, 6), np.int64)
    ends[0, :5] = trees[0].subtree_ends
    mask = forward._tree_mask(torch.from_numpy(ends), loaded)
    assert mask.shape == (1, 1, 6, 6)
    seen = [torch.nonzero(row == 0).flatten().tolist() for row in mask[0, 0]]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 3, 4], []]


def test_the_head_is_given_each_output_that_is_read_once(loaded, trees):
    widths = []
    head = loaded.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, args, output: widths.append(output.shape[:2]))
    try:
        forward.forward(trees, loaded, True)
    finally:
        hook.remove()
    # nodes 1 (twice), 2, 3 and 4 of the one tree, all five nodes of the other
    assert widths == [(1, 4 + 5)]


def test_an_error_of_the_model_leaves_its_head_as_it_was(loaded, trees, monkeypatch):
    head = loaded.model.get_output_embeddings()
    with monkeypatch.context() as patch:
        patch.setattr(head, "forward", lambda states: states.no_such_method())
        with pytest.raises(AttributeError):
            forward.forward(trees, loaded, True)
    assert not head._forward_pre_hooks


def test_a_model_that_ignores_the_tree_mask_does_not_support_trees(loaded, trees):
    assert forward.supports_trees(trees[0], loaded)

    class Causal(torch.nn.Module):
        """The same model, told nothing of paths and positions."""

        def __init__(self, model):
            super().__init__()
            self.model, self.config = model, model.config
            self.dtype, self.device = model.dtype, model.device
            self.get_output_embeddings = model.get_output_embeddings

        def forward(self, input_ids, attention_mask, use_cache, position_ids=None):
            return self.model(input_ids=input_ids, use_cache=use_cache)

    ignorant = dataclasses.replace(loaded, model=Causal(loaded.model))
    assert not forward.supports_trees(trees[0], ignorant)
    assert forward.supports_trees(trees[1], ignorant)
