"""Questions with four options each, of random words, as a plan of token trees."""

import random

from benchmarks.conftest import WORDS
from ilp_mlflow.scoring.tokens import token_trees

ITEMS = 96


def questions(tokenizer, prompt_tokens, option_tokens, seed=0, n=ITEMS):
    """`n` prompts with four options each as token ids, their lengths within a quarter of what is asked for."""
    draw = random.Random(seed)

    def ids(length):
        length = draw.randint(max(1, round(0.75 * length)), round(1.25 * length))
        return tokenizer(" " + " ".join(draw.choices(WORDS, k=length)))["input_ids"][:length]

    return [(ids(prompt_tokens), [ids(option_tokens) for _ in range(4)]) for _ in range(n)]


def plan_of(asked, batch_tokens):
    items = []
    for i, (prompt, options) in enumerate(asked):
        tree = token_trees.build_tree(
            [prompt + option for option in options], [len(prompt)] * len(options)
        )
        items.append(token_trees.SampleTree(f"{i:04}", tree, False, ("b", "c", "d"), ()))
    return token_trees.ScoringPlan(
        token_trees.make_batches(items, batch_tokens), [], {}, batch_tokens
    )
