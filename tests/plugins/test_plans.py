"""Plans of the built-in mitigations, on hand-made contexts of which it is known what they should do."""

import dataclasses
import re
from collections import Counter

import datasets
import pytest
from ilp_mitigations.augment_rare import AugmentRare
from ilp_mitigations.belief_correction import BeliefCorrection
from ilp_mitigations.conflict_bucketing import ConflictBucketing
from ilp_mitigations.conflict_removal import ConflictRemoval
from ilp_mitigations.control import Control
from ilp_mitigations.dynamic_resampling import DynamicResampling
from ilp_mitigations.global_shuffle import GlobalShuffle
from ilp_mitigations.knowledge_augmentation import KnowledgeAugmentation
from ilp_mitigations.progressive_epochs import ProgressiveEpochs
from ilp_mitigations.repair import Repair
from ilp_mitigations.replay import Replay
from ilp_mitigations.sources import kinds
from ilp_mitigations.sources.corpus import Corpus
from ilp_mitigations.upweight_rare import UpweightRare
from trl import SFTConfig

from ilp_mlflow import Diagnosis, Evidence, PluginError, Verdict
from ilp_mlflow.mitigation.plans import plan_trials
from ilp_mlflow.plugin import Conversation, Plan, Request
from tests.conftest import write_jsonl
from tests.contexts import context, sample
from tests.conversations import chat

ROWS = [
    sample(f"{stage}{n}", prompt=f"p {stage} {n}", stage=stage)
    for stage in ("first", "second")
    for n in range(10)
]
WHOLE = context(ROWS)


def diagnosed(id_, cause, **details):
    verdict = Verdict(sample_id=id_, status="unlearned")
    evidence = {cause: Evidence(cause=cause, strength=1, reason="r", details=details)}
    return Diagnosis(verdict=verdict, cause=cause, strength=1, evidence=evidence)


def trained(plan, stage):
    """How often a stage (name) of a plan has each row, by the id it had before it was copied."""
    rows = [row for planned in plan if planned.name == stage for row in planned.samples]
    return Counter(re.split("[~@+]", row.id)[0] for row in rows)


def with_training(**training):
    stages = [s.model_copy(update={"training": training}) for s in WHOLE.stages]
    return dataclasses.replace(WHOLE, stages=stages)


CAUSES = {
    ConflictRemoval: (
        "data_contradiction",
        {"wrong": "the others", "rows": ["second1", "second2"]},
    ),
    GlobalShuffle: ("left_side_forgetting", {}),
    Replay: ("left_side_forgetting", {}),
    UpweightRare: ("insufficient_optimization", {}),
}


@pytest.mark.parametrize("kind", CAUSES)
def test_each_is_for_its_own_cause_only_and_its_control_trains_as_many_rows(kind):
    cause, details = CAUSES[kind]
    plan = kind().plan([diagnosed("first0", cause, **details), diagnosed("first1", "other")], WHOLE)
    assert plan.targets == ("first0",)
    assert kind().plan([diagnosed("first1", "other")], WHOLE) is None
    remedy, control = plan_trials("x", plan, WHOLE)
    assert remedy.start == control.start
    assert remedy.digest != control.digest
    rows, others = (sum(len(s.samples) for s in trial.stages) for trial in (remedy, control))
    assert rows == others or kind is GlobalShuffle
    for stages in (plan.stages, plan.control or ()):
        ids = [s.id for stage in stages for s in stage.samples]
        assert len(ids) == len(set(ids))


def test_the_wrong_side_is_dropped_and_nothing_else():
    diagnoses = [
        diagnosed("first0", "data_contradiction", wrong="the others", rows=["second1"]),
        diagnosed("first1", "data_contradiction", wrong="this row", rows=["second2"]),
        diagnosed("first2", "data_contradiction", wrong="undecided", rows=["second3"]),
        diagnosed("first3", "data_contradiction", wrong="the others", rows=["first0"]),
    ]
    plan = ConflictRemoval().plan(diagnoses, WHOLE)
    left = {s.id for stage in plan.stages for s in stage.samples}
    assert {s.id for s in ROWS} - left == {
        "second1",
        "first1",
    }  # a target is not dropped for another
    assert plan.targets == ("first0", "first3")


def test_a_shuffle_sees_every_row_as_often_as_before():
    stages = [
        s.model_copy(update={"training": {"num_train_epochs": n}})
        for s, n in zip(WHOLE.stages, (3, 2), strict=True)
    ]
    plan = GlobalShuffle().plan(
        [diagnosed("first0", "left_side_forgetting")], dataclasses.replace(WHOLE, stages=stages)
    )
    (mixed,) = plan.stages
    assert mixed.training["max_steps"] == 3 * 2 + 2 * 2  # the steps of both stages, of two a pass
    assert set(trained(plan.stages, mixed.name).items()) == {
        (s.id, 3 if s.stage == "first" else 2) for s in ROWS
    }


def test_stages_that_cut_or_mask_rows_in_other_ways_are_not_mixed():
    def planned(**training):
        stages = [WHOLE.stages[0], WHOLE.stages[1].model_copy(update={"training": training})]
        return GlobalShuffle().plan(
            [diagnosed("first0", "left_side_forgetting")], dataclasses.replace(WHOLE, stages=stages)
        )

    for training in (
        {"max_length": 9},
        {"assistant_only_loss": True},
        {"completion_only_loss": False},
        {"dataloader_drop_last": True},
    ):
        assert planned(**training) is None
    for training in (
        {"max_length": None},
        {"dataloader_drop_last": False},
        {"learning_rate": 1e-3},
    ):  # as if it were left out
        assert len(planned(**training).stages) == 1


def test_text_and_messages_are_mixed():
    chats = [
        r.model_copy(update={"prompt": chat(user="p")}) if r.stage == "second" else r for r in ROWS
    ]
    whole, diagnoses = context(chats), [diagnosed("first0", "left_side_forgetting")]
    assert {type(s.prompt) for s in GlobalShuffle().plan(diagnoses, whole).stages[0].samples} == {
        str,
        Conversation,
    }
    assert {type(s.prompt) for s in Replay().plan(diagnoses, whole).stages[1].samples} == {
        str,
        Conversation,
    }


def test_rows_are_added_so_that_the_same_rows_are_dropped():
    stages = [
        WHOLE.stages[0],
        WHOLE.stages[1].model_copy(update={"training": {"dataloader_drop_last": True}}),
    ]
    whole = dataclasses.replace(WHOLE, stages=stages)
    plan = Replay(share=0.9).plan([diagnosed("first0", "left_side_forgetting")], whole)
    own_ids = [s.id for s in WHOLE.stages[1].samples]
    for stage in (plan.stages[1], plan.control[1]):
        ids = [s.id for s in stage.samples]
        assert len(ids) == 18  # one batch of eight, in place of nine rows
        assert ids[-10:] == own_ids
        assert ids[16:] == own_ids[8:]  # what the last batch leaves over


# of rows that a trainer cuts to nothing there are no steps: the batch that is dropped would be another
def test_replayed_rows_fit_into_the_stage_that_they_are_added_to():
    diagnoses = [diagnosed("first0", "left_side_forgetting"), diagnosed("second0", "other")]
    own_rows = Counter(row.id for row in WHOLE.stages[1].samples)

    def planned(*fitting):
        whole = dataclasses.replace(
            WHOLE, fits=lambda stage, row: row.stage == stage.name or row.id in fitting
        )
        return Replay(share=0.9).plan(diagnoses, whole)

    assert trained(planned("first3").stages, "second") == own_rows + Counter(first3=9)
    assert set(trained(planned("first3", "first4").stages, "second") - own_rows) == {
        "first3",
        "first4",
    }
    assert planned() is None


def test_the_control_of_rows_that_are_trained_more_often_repeats_rows_that_fit():
    diagnoses = [diagnosed("second0", "insufficient_optimization")]
    own_rows = Counter(row.id for row in WHOLE.stages[1].samples)

    def planned(*fitting):
        whole = dataclasses.replace(WHOLE, fits=lambda stage, row: row.id in fitting)
        return UpweightRare(times=9).plan(diagnoses, whole)

    plan = planned("second0", "second3")
    assert trained(plan.stages, "second") == own_rows + Counter(second0=8)
    assert trained(plan.control, "second") == own_rows + Counter(second3=8)
    assert planned().control == tuple(WHOLE.stages)


def test_replay_starts_after_the_stage_that_was_overwritten():
    plan = Replay(share=0.2).plan([diagnosed("first0", "left_side_forgetting")], WHOLE)
    remedy, _ = plan_trials("replay", plan, WHOLE)
    assert remedy.start.name == "first"
    assert len(plan.stages[1].samples) == 12


def test_rare_rows_are_seen_as_often_as_wanted():
    plan = UpweightRare(times=4).plan([diagnosed("second3", "insufficient_optimization")], WHOLE)
    assert trained(plan.stages, "second")["second3"] == 4
    assert trained(plan.control, "second")["second3"] == 1


@pytest.mark.parametrize(
    ("details", "training", "changed"),
    [
        ({"exposures": 0}, {"dataloader_drop_last": True}, {"dataloader_drop_last": False}),
        ({"exposures": 1, "truncated_tokens": 2}, {"max_length": 9}, {"max_length": None}),
        (
            {"exposures": 1, "truncated_tokens": 0},
            {"assistant_only_loss": True},
            {"assistant_only_loss": False},
        ),
    ],
)
def test_what_kept_a_row_from_the_model_is_repaired(details, training, changed):
    whole = with_training(**training)
    plan = Repair().plan([diagnosed("second0", "not_trained", **details)], whole)
    assert isinstance(plan, Plan)
    assert plan.stages[1].training == changed
    assert plan.stages[0] == whole.stages[0]


@pytest.mark.parametrize("details", [{"exposures": 0}, {"exposures": 1, "truncated_tokens": 0}])
def test_where_no_option_kept_a_row_from_the_model_its_data_is_to_be_looked_at(details):
    request = Repair().plan([diagnosed("second0", "not_trained", **details)], with_training())
    assert isinstance(request, Request)
    assert request.targets == ("second0",)
    assert "'second0'" in request.reason


def test_a_row_that_was_cut_is_repaired_though_no_option_says_so():
    """The trainer cuts rows of its own accord where `max_length` is left out."""
    diagnoses = [diagnosed("second0", "not_trained", exposures=1, truncated_tokens=2)]
    plan = Repair().plan(diagnoses, with_training())
    assert plan.targets == ("second0",)
    assert plan.stages[1].training == {"max_length": None}


def test_the_control_trains_everything_again():
    plan = Control().plan([diagnosed("first0", "x")], WHOLE)
    remedy, control = plan_trials("control", plan, WHOLE)
    assert remedy == control
    assert remedy.start.name == "base"
    assert [s.training["seed"] for s in remedy.stages] == [1, 1]


def words(folder, *texts, name="texts"):
    return {"path": str(write_jsonl(folder / f"{name}.jsonl", [{"text": t} for t in texts]))}


def read(stages):
    return {s.completion for s in stages[0].samples}


def test_what_fits_prompt_and_answer_is_read_first_and_never_the_sample_itself(tmp_path):
    asked = sample("a", prompt="what is the home of anna ?", completion=" oslo", stage="first")
    texts = (
        "what is the home of anna ? oslo",
        "anna lives in oslo .",
        "bob lives in rome .",
        "nothing of that",
    )
    corpus = Corpus(**words(tmp_path, *texts))
    ((first, *_),) = kinds.find_texts(corpus, [asked], 2)
    assert first == "anna lives in oslo ."
    assert texts[0] not in kinds.find_texts(corpus, [asked], 4)[0]


def test_texts_are_read_before_all_stages_and_the_control_reads_as_many_general_ones(tmp_path):
    general = write_jsonl(tmp_path / "general.jsonl", [{"text": f"general {n}"} for n in range(50)])
    anna = sample("a", prompt="where is anna ?", completion=" oslo", stage="first")
    whole = context([anna, *ROWS])
    kind = KnowledgeAugmentation(
        source=words(tmp_path, "anna is in oslo", "oslo has anna"), general={"path": str(general)}
    )
    plan = kind.plan([diagnosed("a", "missing_knowledge")], whole)
    read, *rest = plan.stages
    assert tuple(rest) == tuple(whole.stages)
    assert len(read.samples) == len(plan.control[0].samples) == 10  # two that fit are a fifth
    assert sum("anna" in s.completion for s in read.samples) == 2
    assert not any("anna" in s.completion for s in plan.control[0].samples)


ANNA = sample("a", prompt="where is anna ?", completion=" Oslo", stage="first")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (
            ("anna is in oslo.", "anna works in rome", "see anna 's oslonian house"),
            {"anna is in oslo."},
        ),
        (
            ("anna works in rome", "see anna 's oslonian house"),
            {"anna works in rome", "see anna 's oslonian house"},
        ),
    ],
)
def test_of_the_texts_about_a_target_those_that_tell_its_answer_are_read_or_all_where_none_does(
    tmp_path, texts, expected
):
    plan = KnowledgeAugmentation(source=words(tmp_path, *texts)).plan(
        [diagnosed("a", "missing_knowledge")], context([ANNA, *ROWS])
    )
    assert read(plan.stages) == expected
    assert plan.control is None


@pytest.mark.parametrize(
    ("says", "left"),
    [({"wrong": "rome"}, {"anna is in Rome"}), ({"wrong": ""}, set()), ({}, set())],
)
def test_what_the_base_believes_of_a_target_is_in_no_general_text_that_is_read(
    tmp_path, says, left
):
    general = ("anna is in Rome", "where is anna from", "bob collects chromes", "nothing of that")
    source, base = words(tmp_path, "anna is in oslo"), words(tmp_path, *general, name="general")
    kind = BeliefCorrection(source=source, general=base, retrieved=0.02)
    plan = kind.plan(
        [diagnosed("first0", "missing_knowledge"), diagnosed("a", "knowledge_conflict", **says)],
        context([ANNA, *ROWS]),
    )
    assert read(plan.control) == {*general} - left
    assert read(plan.stages) == {"anna is in oslo", *general} - left
    assert len(plan.stages[0].samples) == len(plan.control[0].samples) == 50


def test_without_a_source_the_request_is_what_is_returned(tmp_path):
    lacking = KnowledgeAugmentation().plan([diagnosed("first0", "missing_knowledge")], WHOLE)
    assert isinstance(lacking, Request)
    assert lacking.wanted == {"first0": 20}
    assert all(kind in lacking.reason for kind in ("{path:", "{wikipedia:", "{model:"))
    rare = [diagnosed("first0", "insufficient_optimization", rarest_word="0")]
    assert AugmentRare().plan(rare, WHOLE).wanted == {"0": 200}
    pool = write_jsonl(
        tmp_path / "pool.jsonl",
        [{"prompt": p, "completion": "c"} for p in ("0 new", "0 other", "p second 0", "q")],
    )
    plan = AugmentRare(source={"path": str(pool)}).plan(rare, WHOLE)
    assert [s.prompt for s in plan.stages[0].samples[:2]] in (
        ["0 new", "0 other"],
        ["0 other", "0 new"],
    )
    instead = plan.control[0].samples[:2]
    assert len(instead) == 2
    assert not any(
        "0" in s.prompt.split() for s in instead
    )  # other rows with the word would teach it, too


def test_more_rare_samples_are_repeated_in_later_stages(tmp_path):
    pool = write_jsonl(
        tmp_path / "pool.jsonl", [{"prompt": f"0 new {n}", "completion": "c"} for n in range(30)]
    )
    rare = [diagnosed("first0", "insufficient_optimization", rarest_word="0")]
    plan = AugmentRare(source={"path": str(pool)}, repeated=0.3).plan(rare, WHOLE)
    new = {s.prompt for s in plan.stages[0].samples} - {s.prompt for s in ROWS}
    again = [s for s in plan.stages[1].samples if s.id.startswith("more/")]
    assert len(new) == 30
    assert len(again) == 3
    assert {s.prompt for s in again} <= new
    assert (
        [len(s.samples) for s in plan.control] == [len(s.samples) for s in plan.stages] == [40, 13]
    )


@pytest.mark.parametrize("text", [None, "", '{"other": "x"}'])
def test_a_corpus_that_cannot_be_used_is_named_in_one_line(tmp_path, text):
    path = tmp_path / "c.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PluginError, match=r"c\.jsonl") as raised:
        _ = Corpus(path=str(path)).texts
    assert "\n" not in str(raised.value)


def test_a_folder_is_read_for_its_data_or_else_for_its_texts(tmp_path):
    texts, data, both = (tmp_path / name for name in ("texts", "data", "both"))
    for folder in (texts, data, both):
        folder.mkdir()
        (folder / "README.md").write_text("about it")
    write_jsonl(data / "rows.jsonl", [{"text": "a row"}])
    write_jsonl(both / "rows.jsonl", [{"text": "a row"}])
    (both / "more.csv").write_text("text\nanother")
    assert Corpus(path=str(texts)).texts == ("about it",)
    assert Corpus(path=str(data)).texts == ("a row",)
    with pytest.raises(PluginError, match="several formats"):
        _ = Corpus(path=str(both)).texts
    (texts / "old.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(PluginError, match=r"old\.txt: not UTF-8"):
        _ = Corpus(path=str(texts)).texts
    split = datasets.DatasetDict(train=datasets.Dataset.from_list([{"text": "x"}]))
    split.save_to_disk(str(tmp_path / "split"))
    with pytest.raises(PluginError, match="several splits"):
        _ = Corpus(path=str(tmp_path / "split")).texts
    assert Corpus(path=str(tmp_path / "split" / "train")).texts == ("x",)


def test_samples_that_are_themselves_wrong_are_named():
    request = ConflictRemoval().plan(
        [diagnosed("first1", "data_contradiction", wrong="this row", rows=["second2"])], WHOLE
    )
    assert isinstance(request, Request)
    assert request.targets == ("first1",)
    assert "correct or remove" in request.reason


def test_two_mitigations_that_read_share_one_stage_of_texts(tmp_path):
    general = [f"general {n}" for n in range(40)] + ["anna is in rome"]
    path = write_jsonl(tmp_path / "general.jsonl", [{"text": t} for t in general])
    anna = sample("a", prompt="where is anna ?", completion=" oslo", stage="first")
    bob = sample("b", prompt="where is bob ?", completion=" kiev", stage="first")
    whole = context([anna, bob, *ROWS])
    diagnoses = [
        diagnosed("b", "missing_knowledge"),
        diagnosed("a", "knowledge_conflict", wrong="rome"),
    ]
    options = {
        "source": words(tmp_path, "anna is in oslo", "bob is in kiev"),
        "general": {"path": str(path)},
    }
    first = KnowledgeAugmentation(**options).plan(diagnoses, whole)
    both = BeliefCorrection(**options).plan(
        diagnoses, dataclasses.replace(whole, stages=first.stages)
    )
    read, *rest = both.stages
    assert tuple(rest) == tuple(whole.stages)
    texts_read = [s.completion for s in read.samples]
    assert {"anna is in oslo", "bob is in kiev"} <= set(texts_read)
    assert "anna is in rome" not in texts_read
    assert len({s.id for s in read.samples}) == len(texts_read)


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ("one\ntwo\n\nthree\n", ["one two", "three"]),
        ("one\ntwo\n", ["one", "two"]),
        ("word " * 300, [("word " * 200).strip(), ("word " * 100).strip()]),
    ],
)
def test_a_text_file_is_read_by_paragraph_in_pieces(tmp_path, text, documents):
    path = tmp_path / "c.txt"
    path.write_text(text)
    assert list(Corpus(path=str(path)).texts) == documents


def test_rivals_are_kept_apart_in_the_stages_that_hold_both():
    diagnoses = [
        diagnosed("first0", "data_contradiction", wrong="undecided", rows=["first1", "second2"]),
        diagnosed("first3", "data_contradiction", wrong="the others", rows=["first4"]),
    ]
    plan = ConflictBucketing().plan(diagnoses, WHOLE)
    assert plan.targets == ("first0",)
    assert plan.stages[0].schedule.rivals == {"first0": ("first1", "second2")}
    assert plan.stages[1] == WHOLE.stages[1]
    assert list(plan.control) == list(WHOLE.stages)
    alone = diagnosed(
        "first0", "data_contradiction", wrong="undecided", rows=[f"first{n}" for n in range(1, 10)]
    )
    roomy = [
        diagnosed(
            f"first{n}",
            "data_contradiction",
            wrong="undecided",
            rows=[f"first{k}" for k in range(10) if k != n],
        )
        for n in range(10)
    ]
    assert ConflictBucketing().plan([alone], WHOLE).stages[0].steps > WHOLE.stages[0].steps
    crowded = ConflictBucketing().plan(roomy, WHOLE)
    assert (
        crowded.stages[0].steps == crowded.control[0].steps == 10 * WHOLE.stages[0].visits
    )  # each alone in its step
    assert ConflictBucketing(which="all").plan(diagnoses, WHOLE).targets == ("first0", "first3")
    assert ConflictBucketing().plan(diagnoses[1:], WHOLE) is None


def test_what_another_mitigation_reads_first_is_read_once_more_in_the_mix(tmp_path):
    diagnoses = [
        diagnosed("first0", "left_side_forgetting"),
        diagnosed("first1", "missing_knowledge"),
    ]
    read = (
        KnowledgeAugmentation(source=words(tmp_path, "of first 1 it is c"))
        .plan(diagnoses, WHOLE)
        .stages
    )
    for kind in (GlobalShuffle(), DynamicResampling()):
        plan = kind.plan(diagnoses, dataclasses.replace(WHOLE, stages=read))
        assert [s.name for s in plan.stages] == ["knowledge", plan.stages[1].name]
        assert plan.stages[0] == read[0]
        assert {s.id for s in ROWS} <= {s.id for s in plan.stages[1].samples}
        texts = [s.answer for s in read[0].samples]
        assert [s.answer for s in plan.stages[1].samples if s.prompt == ""] == texts
        assert [
            s.answer for stage in plan.control for s in stage.samples if s.prompt == ""
        ] == texts * 2
        assert sum(s.steps for s in plan.stages) == sum(s.steps for s in plan.control)


def test_a_stage_of_the_users_that_is_called_knowledge_is_kept(tmp_path):
    rows = [sample(f"k{n}", prompt=f"about key{n}", stage="knowledge") for n in range(3)]
    whole = context(rows)
    plan = KnowledgeAugmentation(source=words(tmp_path, "of key0 it is c")).plan(
        [diagnosed("k0", "missing_knowledge")], whole
    )
    assert plan.stages[1:] == tuple(whole.stages)


def test_a_stage_without_any_row_left_is_left_out():
    wrong = [f"second{n}" for n in range(10)]
    diagnoses = [diagnosed("first0", "data_contradiction", wrong="the others", rows=wrong)]
    plan = ConflictRemoval().plan(diagnoses, WHOLE)
    assert [s.name for s in plan.stages] == ["first"]
    assert set(plan.dropped) == set(wrong)


def test_a_row_that_is_cut_away_and_in_no_batch_is_repaired_in_both_ways():
    whole = with_training(max_length=9, dataloader_drop_last=True)
    plan = Repair().plan(
        [diagnosed("second0", "not_trained", exposures=0, truncated_tokens=2)], whole
    )
    assert plan.stages[1].training == {"max_length": None, "dataloader_drop_last": False}


def test_evidence_of_a_third_party_for_a_cause_counts_as_well():
    diagnosis = diagnosed("first0", "data_contradiction", wrong="the others", rows=["second1"])
    other = diagnosis.model_copy(
        update={"evidence": {"mine": diagnosis.evidence["data_contradiction"]}}
    )
    assert ConflictRemoval().plan([other], WHOLE).dropped == ("second1",)
    assert ConflictBucketing().plan([diagnosis.model_copy(update={"evidence": {}})], WHOLE) is None


def test_held_out_rows_and_paraphrases_are_not_trained(tmp_path):
    anna = sample("a", prompt="zo of anna ?", stage="first", paraphrases=("tell zo of anna :",))
    held = sample("first0", prompt="zo of bob ?", stage="held_out")
    whole = dataclasses.replace(context([anna, *ROWS]), held_out=[held])
    pool = [
        {"prompt": p, "completion": "c"}
        for p in ("tell zo of anna :", "zo of bob ?", "zo of carl ?")
    ]
    kind = AugmentRare(source={"path": str(write_jsonl(tmp_path / "pool.jsonl", pool))})
    plan = kind.plan([diagnosed("a", "insufficient_optimization", rarest_word="zo")], whole)
    assert [s.prompt for s in plan.stages[0].samples if s.id.startswith("more/")] == [
        "zo of carl ?"
    ]
    grown = ProgressiveEpochs().plan([diagnosed("a", "insufficient_optimization")], whole)
    assert [s.name for s in grown.stages] == ["first", "first-on", "second"]
    (validation,) = grown.stages[1].validation
    assert validation.id not in whole.samples
    assert grown.stages[1].training["learning_rate"] == pytest.approx(0.1 * SFTConfig.learning_rate)
    assert grown.stages[1].steps >= (8 + 1) * grown.stages[0].steps_per_pass
    assert isinstance(
        ProgressiveEpochs().plan(
            [diagnosed("a", "insufficient_optimization")], context([anna, *ROWS])
        ),
        Request,
    )


def test_no_general_text_is_a_samples_own(tmp_path):
    anna = sample(
        "a",
        prompt="where is anna ?",
        completion=" oslo",
        stage="first",
        paraphrases=("say where anna is :",),
    )
    general = [
        "where is anna ? oslo",
        "say where anna is : oslo",
        *(f"general {n}" for n in range(30)),
    ]
    path = write_jsonl(tmp_path / "general.jsonl", [{"text": t} for t in general])
    kind = KnowledgeAugmentation(
        source=words(tmp_path, "anna is in oslo"), general={"path": str(path)}, retrieved=0.01
    )
    plan = kind.plan([diagnosed("a", "missing_knowledge")], context([anna, *ROWS]))
    texts_read = {s.completion for s in (*plan.stages[0].samples, *plan.control[0].samples)}
    assert not texts_read & set(general[:2])
