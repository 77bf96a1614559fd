"""Rows of which none contradicts another: open questions answered in other words, and reading."""

import random

from ilp_mlflow.plugin import Sample

THINGS = [
    "refrigerator",
    "kettle",
    "bicycle",
    "candle",
    "magnet",
    "compass",
    "lighthouse",
    "piano",
    "zip",
    "thermos",
]
ASKED = (
    ("How does a {} work?", "Explain how a {} works."),
    ("How does a {} work?", "how does a {} work"),
    ("What is a {} good for?", "What is a {} good for?"),
)
PARTS = (
    ("It moves {a} from one side to the other.", "By carrying {a} across, it does its job."),
    (
        "Inside it there is a part that takes up {a} and hands it on until nothing is left of it.",
        "A part inside picks {a} up, passes it along, and goes on until all of it has gone.",
    ),
)
CARRIED = ("heat", "air")
NAMES = [
    "Ann",
    "Ben",
    "Cleo",
    "Dan",
    "Eve",
    "Finn",
    "Gus",
    "Hana",
    "Ivo",
    "Jill",
    "Kurt",
    "Lena",
    "Max",
    "Nora",
    "Otto",
    "Pia",
]
TOWNS = [
    "Bern",
    "Rome",
    "Oslo",
    "Lima",
    "Cairo",
    "Delhi",
    "Quito",
    "Accra",
    "Seoul",
    "Minsk",
    "Turin",
    "Porto",
    "Lyon",
    "Graz",
]
FRUITS = ["apples", "pears", "plums", "cherries", "figs", "grapes", "melons"]


def reworded(n=60):
    """`n` rows in pairs: one question in the same or other words, two answers of one meaning."""
    rows = []
    for thing in THINGS:
        for carried in CARRIED:
            for asked, parts in zip(ASKED, (*PARTS, PARTS[0]), strict=True):
                for place, (question, answer) in enumerate(zip(asked, parts, strict=True)):
                    id_ = f"reworded {len(rows)}"
                    prompt = question.format(f"{thing} full of {carried}")
                    text = answer.format(a=carried)
                    rows.append(Sample(id=id_, stage="first", prompt=prompt, completion=f" {text}"))
                    assert place < 2
    return rows[: 2 * n]


def reading(n=60, seed=0):
    """`n` rows that ask one of three questions of documents which differ in a few words."""
    rng = random.Random(f"reading {seed}")
    rows, seen = [], set()
    while len(rows) < n:
        name, town, fruit, count = map(rng.choice, (NAMES, TOWNS, FRUITS, range(2, 99)))
        document = f"{name} went to the market of {town} and came home with {count} {fruit}."
        if document in seen:
            continue
        seen.add(document)
        question, answer = rng.choice(
            (
                ("Where was the market?", town),
                ("How many were bought?", str(count)),
                ("What was bought?", fruit),
                ("Was it more than fifty?", "yes" if count > 50 else "no"),
            )
        )
        prompt = f"Read the text and answer.\n\nText: {document}\n\nQuestion: {question}\nAnswer:"
        id_ = f"reading {len(rows)}"
        rows.append(Sample(id=id_, stage="first", prompt=prompt, completion=f" {answer}"))
    return rows
