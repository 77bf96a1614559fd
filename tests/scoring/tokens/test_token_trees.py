import random
import re

import numpy as np
import pytest

from ilp_mlflow.core.values import Sample
from ilp_mlflow.scoring.models.tokenization import read_tokenization
from ilp_mlflow.scoring.tokens import token_trees


def paths(tree):
    """The sequences of a tree, read off through its nodes."""
    node = np.arange(len(tree))
    found = {}
    for sequence in np.unique(tree.target_sequences):
        own = tree.target_sequences == sequence
        leaf = tree.target_nodes[own][-1]
        found[int(sequence)] = [
            *tree.tokens[(node <= leaf) & (leaf < tree.subtree_ends)].tolist(),
            int(tree.target_ids[own][-1]),
        ]
    return found


@pytest.mark.parametrize("seed", range(50))
def test_a_tree_holds_every_sequence_and_what_they_share_once(seed):
    draw = random.Random(seed)
    trunk = [draw.randint(0, 3) for _ in range(draw.randint(1, 6))]
    sequences = [
        trunk + [draw.randint(0, 2) for _ in range(draw.randint(1, 6))]
        for _ in range(draw.randint(1, 6))
    ]
    tree = token_trees.build_tree(sequences, [len(trunk)] * len(sequences))
    assert paths(tree) == dict(enumerate(sequences))
    assert [tree.sequence(k) for k in range(tree.sequence_count)] == sequences
    assert {tree.start(k) for k in range(tree.sequence_count)} == {len(trunk)}
    assert tree.longest_path == max(map(len, sequences)) - 1
    # one node for every distinct beginning that has something behind it
    assert len(tree) == len({tuple(s[: i + 1]) for s in sequences for i in range(len(s) - 1)})
    for node, target, sequence in zip(
        tree.target_nodes.tolist(),
        tree.target_ids.tolist(),
        tree.target_sequences.tolist(),
        strict=True,
    ):
        position = int(tree.depths[node])
        assert sequences[sequence][position + 1] == target
        ancestors = [a for a in range(len(tree)) if a <= node < tree.subtree_ends[a]]
        assert tree.depths[ancestors].tolist() == list(range(position + 1))


def test_the_tree_that_is_drawn_is_the_one_that_is_built():
    tree = token_trees.build_tree([[5, 6, 7, 8], [5, 6, 9, 8, 4]], [2, 2])
    drawn = re.findall(r"^ +(\w+) {2,}((?:\d+ *)+)$", token_trees.TokenTree.__doc__, re.MULTILINE)
    rows = {name: [int(number) for number in numbers.split()] for name, numbers in drawn}
    assert rows.pop("node") == list(range(len(tree)))
    assert rows == {name: getattr(tree, name).tolist() for name in rows}
    assert len(rows) == 6


def test_single_tokens_behind_one_prompt_cost_nothing_more():
    tree = token_trees.build_tree([[5, 6, 7, option] for option in range(4)], [3] * 4)
    assert len(tree) == 3
    assert set(tree.target_nodes.tolist()) == {2}


def test_batches_are_longest_first_and_within_the_budget(tiny_model):
    tokenization = read_tokenization([str(tiny_model)])
    samples = [
        Sample(id=f"{i}", stage="s", prompt="x" * (1 + i % 40), completion=" y") for i in range(100)
    ]
    plan = token_trees.plan_batches(samples, {}, tokenization, 64)
    sizes = [[len(item.tree) for item in batch] for batch in plan.sample_batches]
    assert all(len(batch) == 1 or len(batch) * max(batch) <= 64 for batch in sizes)
    assert [size for batch in sizes for size in batch] == sorted(
        (s for b in sizes for s in b), reverse=True
    )
    assert sorted(i.sample_id for b in plan.sample_batches for i in b) == sorted(
        s.id for s in samples
    )


def test_a_digest_tells_plans_apart_that_score_differently(tiny_model):
    tokenization = read_tokenization([str(tiny_model)])
    sample = Sample(id="a", stage="s", prompt="The capital of France is", completion=" Paris")

    def digest(changes=None, wrong=("Rome", "Oslo"), size=64):
        return token_trees.plan_batches(
            [sample.model_copy(update=changes or {})], {"a": wrong}, tokenization, size
        ).digest

    assert digest() == digest()
    others = [
        digest({"id": "b"}),
        digest({"prompt": "The capital of Peru is"}),
        digest(wrong=("Rome", "Lima")),
    ]
    assert len({digest(), *others, digest(wrong=("Oslo", "Rome"))}) == 5
