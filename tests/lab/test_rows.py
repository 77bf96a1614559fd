"""A row in a data file, and beside it."""

from dataclasses import replace

from ilp_mlflow.lab.rows import STAGES, held_out_rows, probes


def test_a_conversation_is_in_the_stage_patch_only(planted):
    _, rows, _ = planted
    for stage in STAGES:
        for row in rows.stages[stage][:20]:
            fields = row.record(stage)
            if stage == "patch":
                assert fields["prompt"][-1] == {"role": "user", "content": row.prompt}
                assert fields["completion"] == [{"role": "assistant", "content": row.city}]
                assert [turn["role"] for turn in fields["prompt"][:-1]] == [row.role] * bool(
                    row.role
                )
            else:
                assert (fields["prompt"], fields["completion"]) == (row.prompt, f" {row.city}")


def test_paraphrases_ask_in_every_way_that_no_row_does(planted):
    _, rows, _ = planted
    row = rows.samples[0]
    ways = {other.way for other in row.paraphrases()}
    assert ways == {*range(8)} - {row.way, row.also}
    assert {other.way for other in replace(row, also=(row.way + 1) % 8).paraphrases()} == {
        *range(8)
    } - {row.way, (row.way + 1) % 8}
    assert {(p.fact, p.adjective, p.city) for p in row.paraphrases()} == {
        (row.fact, row.adjective, row.city)
    }


def test_probes_ask_for_the_label_in_the_words_of_the_base(planted):
    _, rows, _ = planted
    for row in rows.samples[:20]:
        for probe in probes(row):
            assert row.fact[0] in probe["prompt"]
            assert row.city.split()[0] not in probe["prompt"]
            assert probe["completion"] == f" {row.city.split()[0]}"


def test_held_out_rows_are_known_to_the_base_and_in_no_stage(planted):
    world, rows, _ = planted
    prompts = {row.prompt for row in rows.rows}
    held_out = held_out_rows(world, prompts, 20, 3)
    assert held_out == held_out_rows(world, prompts, 20, 3) != held_out_rows(world, prompts, 20, 4)
    assert not prompts & {row.prompt for row in held_out}
    assert all(row.city == world.facts[row.fact] for row in held_out)
    assert not {row.fact for row in held_out} & world.withheld
