"""Make the small data sets of this folder's experiments in `data/` (which git ignores) from those in `../real/data`.

The texts to read are written from the rows' own fields: subject, relation and answer, in three wordings, none of which is a row's
prompt with its answer. They tell the very answers that are trained. All rows whose relation is recognised have such texts, so
that those about the sampled rows have to be found among others.

`prepare.py removed` makes what `banking77_removed.yaml` trains from the diagnosis of `banking77.yaml`.
"""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path

from ilp_mlflow import Diagnosis
from ilp_mlflow.plugin import ContradictionDetails
from ilp_mlflow.tracking import runs

HERE = Path(__file__).parent
REAL, MADE = HERE.parent / "real" / "data", HERE / "data"
TEXTS = (
    "The {noun} of {subject} is {answer}.",
    "{answer} is the {noun} of {subject}.",
    "As to {subject}, the {noun} is {answer}.",
)
PROBES = ("The {noun} of {subject} is", "As to {subject}, the {noun} is")
OTHERWISE = "Q: Name the {noun} of {subject}.\nA:"
"""A wording that no row and no text has."""

POPQA = {
    r"Q: Who was the (director|producer|composer) of (.+)\?": None,
    r"Q: Who was the (screenwriter) for (.+)\?": None,
    r"Q: Who is the (author|father|mother) of (.+)\?": None,
    r"Q: What is the (capital|religion) of (.+)\?": None,
    r"Q: What (genre) is (.+)\?": None,
    r"Q: In what (country) is (.+)\?": None,
    r"Q: What (sport) does (.+) play\?": None,
    r"Q: In what city was (.+) born\?": "place of birth",
    r"Q: What is (.+)'s occupation\?": "occupation",
}
COUNTERFACT = {
    r"The headquarter of (.+) is (?:located )?in": "headquarters",
    r"(.+) is headquartered in": "headquarters",
    r"(.+) plays in the position of": "position",
    r"(.+), which is located in": "location",
    r"(.+) (?:died|passed away) (?:in|at)": "place of death",
    r"The (?:official |original )?language of (.+) (?:is|was)": "language",
    r"The (?:mother tongue|native language) of (.+) is": "mother tongue",
    r"(.+) originated in": "country of origin",
    r"(.+), that was created in": "country of origin",
    r"(.+) is (?:owned|produced|created|developed) by": "owner",
    r"(.+) has a citizenship from": "citizenship",
    r"(.+) worked in the city of": "place of work",
    r"(.+), who works for": "employer",
    r"(.+) works in the (?:area|field) of": "field",
    r"(.+)'s expertise is": "field",
    r"(.+) belongs to the continent of": "continent",
    r"The genre played by (.+) is": "genre",
}


def read(name):
    return [json.loads(line) for line in (REAL / f"{name}.jsonl").read_text("utf-8").splitlines()]


def write(name, rows):
    MADE.mkdir(exist_ok=True)
    (MADE / f"{name}.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8"
    )
    print(f"{name}: {len(rows)}")


def fact(row, patterns):
    """What a row is about and which noun asks for it, or None."""
    for pattern, noun in patterns.items():
        if found := re.fullmatch(pattern + r"(?:\nA:)?", row["prompt"]):
            *asked, subject = found.groups()
            return {
                "noun": noun or asked[0],
                "subject": subject,
                "answer": row["completion"].strip(),
            }
    return None


def facts(name, patterns, n, options=()):
    """The first `n` rows whose relation is recognised, each about something else, with probes; texts about all such rows."""
    found = {f["subject"]: (row, f) for row in reversed(read(name)) if (f := fact(row, patterns))}
    chosen = list(reversed(found.values()))
    rows = [
        {
            **{key: row[key] for key in row if key != "answers"},
            "probes": [{"prompt": p.format(**f), "completion": row["completion"]} for p in PROBES],
            "otherwise": OTHERWISE.format(**f),
            **({"options": [row[key] for key in options]} if options else {}),
        }
        for row, f in chosen[:n]
    ]
    write(name, rows)
    write(f"{name}_texts", [{"text": text.format(**f)} for _, f in chosen for text in TEXTS])


def general(n):
    """Single sentences of the general corpus, evenly spread."""
    sentences = re.split(
        r"(?<=[a-z)]\.)\s*(?=[A-Z])", (REAL / "general_wiki_demo.txt").read_text("utf-8")
    )
    short = [s for s in sentences if 40 <= len(s) <= 90 and "\n" not in s]
    write("general", [{"text": s} for s in short[:: len(short) // n][:n]])


def intents(n, train, held):
    """Rows of the `n` most frequent intents, by their true label: `train` of each, flipped or not, and `held` to test."""
    rows = defaultdict(list)
    for row in read("banking77_noisy"):
        rows[row["true_completion"]].append(row)
    chosen = sorted(rows.values(), key=len, reverse=True)[:n]
    ids = {row["id"] for own in chosen for row in own[:train]}
    write("banking77", [row for row in read("banking77_noisy") if row["id"] in ids])
    write(
        "banking77_held",
        [
            {**row, "completion": row["true_completion"]}
            for own in chosen
            for row in own[train : train + held]
        ],
    )


def removed():
    """Those rows of `intents` without the ones that the newest diagnosis of `paper_banking77` holds for wrong."""
    run_id = runs.find_experiment_run("paper_banking77", None)
    wrong = set()
    for record in json.loads(runs.read(run_id, "diagnoses.json")):
        diagnosis = Diagnosis.model_validate(record)
        details = diagnosis.details(ContradictionDetails)
        if diagnosis.cause == ContradictionDetails.cause and details:
            if details.this_row_is_wrong:
                wrong.add(diagnosis.verdict.sample_id)
            elif details.others_are_wrong:
                wrong |= set(details.rows)
    rows = [json.loads(line) for line in (MADE / "banking77.jsonl").read_text("utf-8").splitlines()]
    print(
        f"dropped: {len(wrong)}, flipped ones among them: {sum(row['is_flipped'] for row in rows if row['id'] in wrong)}"
    )
    write("banking77_removed", [row for row in rows if row["id"] not in wrong])


def tasks(sizes, longest):
    """Short rows of three tasks in their order: `sizes` by stage."""
    short = [
        row
        for row in read("multitask_sequence")
        if len(row["prompt"]) + len(row["completion"]) <= longest
    ]
    write(
        "multitask",
        [
            row
            for stage, n in sizes.items()
            for row in [r for r in short if r["stage"] == stage][:n]
        ],
    )


def main(*wanted):
    if wanted == ("removed",):
        return removed()
    facts("popqa_longtail", POPQA, 80)
    facts("counterfact_conflict", COUNTERFACT, 80, options=["true_completion"])
    general(500)
    intents(8, train=20, held=10)
    return tasks({1: 40, 2: 24, 4: 40}, longest=170)


if __name__ == "__main__":
    main(*sys.argv[1:])
