"""Every kind of defect is found, and the report names its file and its entry; a clean list has none."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from vocalnet.__main__ import app
from vocalnet.data.validate import KINDS, Limits, as_text, validate

RATE_HZ = 16_000
BAD = 2  # the entry that is spoiled
LIMITS = Limits(n_units=875, max_s=5.0)


def sound(samples, rate_hz=RATE_HZ, subtype="FLOAT"):
    def spoil(pairs):
        soundfile.write(pairs.question(BAD), np.asarray(samples, np.float32), rate_hz, subtype=subtype)
        return pairs.question(BAD)

    return spoil


def units(values):
    def spoil(pairs):
        np.save(pairs.units(BAD), values)
        return pairs.units(BAD)

    return spoil


def turns(*said):
    def spoil(pairs):
        pairs.entries[BAD]["conversations"] = [{"from": role, "value": value} for role, value in said]
        return pairs.path

    return spoil


def gone(of):
    def spoil(pairs):
        path = getattr(pairs, of)(BAD)
        path.unlink()
        return path

    return spoil


def key(name, value=None):
    def spoil(pairs):
        del pairs.entries[BAD][name]
        if value is not None:
            pairs.entries[BAD][name] = value
        return pairs.path

    return spoil


def unreadable(pairs):
    pairs.question(BAD).write_text("this is a text\n" * 50)
    return pairs.question(BAD)


def same_sound(pairs):
    shutil.copyfile(pairs.question(0), pairs.question(BAD))
    return pairs.question(BAD)


def same_sound_in_another_container(pairs):
    samples, _ = soundfile.read(pairs.question(0), dtype="int16")
    pairs.entries[BAD]["speech"] = "questions/2.flac"
    soundfile.write(pairs.question(BAD), samples, RATE_HZ)
    return pairs.question(BAD)


def same_file(pairs):
    pairs.entries[BAD]["speech"] = pairs.entries[0]["speech"]
    return pairs.question(0)


def same_id(pairs):
    pairs.entries[BAD]["id"] = "pair-0"
    return pairs.path


def no_array(pairs):
    pairs.units(BAD).write_text("12 13 14")
    return pairs.units(BAD)


def cut_array(pairs):
    pairs.units(BAD).write_bytes(pairs.units(BAD).read_bytes()[:-8])
    return pairs.units(BAD)


def longer_answer(pairs):
    soundfile.write(pairs.answer(BAD), np.full(4 * RATE_HZ, 0.1), RATE_HZ)
    return pairs.units(BAD)


NOISE = 0.1 * np.random.default_rng(9).standard_normal(RATE_HZ * 6)
NAN = np.where(np.arange(RATE_HZ) == 5, np.nan, NOISE[:RATE_HZ])
HUMAN, GPT = ("human", "<speech>"), ("gpt", "Yes.")
DEFECTS = [
    ("missing audio", gone("question")),
    ("missing audio", key("speech")),
    ("missing units", gone("units")),
    ("missing units", key("units")),
    ("unreadable audio", unreadable),
    ("wrong rate", sound(NOISE[:8000], 8000)),
    ("silence", sound(np.full(RATE_HZ, 0.0005))),
    ("NaN", sound(NAN)),
    ("too short", sound(NOISE[: RATE_HZ // 20])),
    ("too short", sound([])),
    ("too long", sound(NOISE)),
    ("empty answer", turns(HUMAN, ("gpt", "  \n"))),
    ("no human turn", turns(GPT)),
    ("no gpt turn", turns(HUMAN)),
    ("role order", turns(GPT, HUMAN)),
    ("role order", turns(HUMAN, GPT, GPT, ("human", "And?"))),
    ("role order", turns(("system", "Be brief."), HUMAN, GPT)),
    ("missing placeholder", turns(("human", "What is it?"), GPT)),
    ("duplicate id", same_id),
    ("duplicate audio", same_sound),
    ("duplicate audio", same_sound_in_another_container),
    ("duplicate audio", same_file),
    ("unit < 0", units(np.arange(-1, 44))),
    ("unit >= vocabulary", units(np.arange(831, 876))),
    ("units of wrong dtype or shape", units(np.zeros(45, np.float32))),
    ("units of wrong dtype or shape", units(np.zeros((1, 45), int))),
    ("units of wrong dtype or shape", units(np.zeros(0, int))),
    ("units of wrong dtype or shape", units(np.array({"speech_token": [1]}, dtype=object))),
    ("units of wrong dtype or shape", no_array),
    ("units of wrong dtype or shape", cut_array),
    ("units/duration mismatch", units(np.arange(60))),
    ("units/duration mismatch", units(np.arange(30))),
    ("units/duration mismatch", longer_answer),
    ("broken entry", key("id")),
    ("broken entry", key("speech", 7)),
    ("broken entry", key("conversations", "Yes.")),
    ("broken entry", turns(("human", "<speech><speech>"), GPT)),
]


def found(report):
    return [(defect["kind"], defect["file"], defect["entry"]) for defect in report["defects"]]


def test_a_clean_list_has_no_defect(pairs):
    report = validate(pairs.path, limits=LIMITS, n_workers=1)
    assert (report["n_entries"], report["n_defects"], report["n_not_compared"]) == (4, 0, 0)


@pytest.mark.parametrize(("kind", "spoil"), DEFECTS, ids=[f"{kind}-{i}" for i, (kind, _) in enumerate(DEFECTS)])
def test_a_defect_is_named_with_its_file_and_its_entry(kind, spoil, pairs):
    file = spoil(pairs)
    report = validate(pairs.write(), limits=LIMITS, n_workers=1)
    assert found(report) == [(kind, str(file), BAD)]
    assert report["by_kind"] == {kind: 1}
    assert f"entry {BAD}, id {pairs.entries[BAD].get('id')!r}: {file}: " in as_text(report)


def test_every_kind_has_a_test():
    assert {kind for kind, _ in DEFECTS} | {"broken JSON"} == set(KINDS)


@pytest.mark.parametrize(
    ("spoil", "entry"),
    [
        (lambda text: text.replace('"id": "pair-2"', '"id": pair-2'), 2),
        (lambda text: text[: text.index("pair-3")], 3),
        (lambda text: text.rstrip().rstrip("]"), 4),
        (lambda text: text + "[]", 4),
        (lambda text: text.replace("[", "", 1), 0),
    ],
)
def test_broken_json_is_named_with_the_entry_where_it_breaks(spoil, entry, pairs):
    pairs.path.write_text(spoil(pairs.path.read_text()))
    pairs.question(0).unlink()  # what stands before the break is checked all the same
    defects = found(validate(pairs.path, limits=LIMITS, n_workers=1))
    assert ("broken JSON", str(pairs.path), entry) in defects
    assert (("missing audio", str(pairs.question(0)), 0) in defects) == (entry > 0)


def test_a_broken_line_of_jsonl_leaves_the_others(pairs):
    lines = [json.dumps(entry) for entry in pairs.entries]
    lines[1] = lines[1][:-1]
    path = pairs.folder / "pairs.jsonl"
    path.write_text("\n".join(lines) + "\n")
    report = validate(path, limits=LIMITS, n_workers=1)
    assert found(report) == [("broken JSON", str(path), 1)]
    assert report["n_entries"] == 4


def test_a_list_for_stage_1_needs_no_units(pairs):
    for entry in pairs.entries:
        del entry["units"]
    assert validate(pairs.write(), limits=Limits(needs_units=False), n_workers=1)["n_defects"] == 0


def test_lengths_are_not_compared_without_the_answer(pairs):
    units(np.arange(300))(pairs)
    shutil.rmtree(pairs.folder / "answers")
    report = validate(pairs.path, limits=LIMITS, n_workers=1)
    assert (report["n_defects"], report["n_not_compared"]) == (0, 4)
    pairs.entries[BAD]["answer_speech"] = "questions/0.wav"
    assert found(validate(pairs.write(), limits=LIMITS, n_workers=1)) == [
        ("units/duration mismatch", str(pairs.units(BAD)), BAD)
    ]


def test_several_processes_find_the_same(pairs):
    sound(NAN)(pairs)
    units(np.arange(-1, 44))(pairs)
    pairs.entries = [{**entry, "id": f"{entry['id']}-{i}"} for i in range(8) for entry in pairs.entries]
    path = pairs.write()
    alone, together = (validate(path, limits=LIMITS, n_workers=n) for n in (1, 2))
    assert alone == together
    assert alone["by_kind"] == {"NaN": 8, "duplicate audio": 21, "unit < 0": 8}


def run(*arguments):
    return CliRunner().invoke(app, ["data", "validate", *(str(a) for a in arguments)])


def test_the_command_ends_with_2_and_writes_its_report(pairs):
    clean = run(pairs.path, "--n-units", 875, "--workers", 1, "--json")
    assert clean.exit_code == 0, clean.stderr
    assert json.loads(clean.stdout.splitlines()[-1])["n_defects"] == 0
    pairs.question(BAD).unlink()
    out = pairs.folder / "report.json"
    bad = run(pairs.path, "--n-units", 875, "--workers", 1, "--report", out)
    assert bad.exit_code == 2
    assert f"entry 2, id 'pair-2': {pairs.question(BAD)}: there is no such file" in bad.stdout
    assert bad.stderr.splitlines()[-1] == f"{pairs.path} has 1 defect in 1 of 4 entries."
    assert json.loads(out.read_text())["by_kind"] == {"missing audio": 1}


def test_the_command_refuses_what_is_no_list(tmp_path):
    missing = run(tmp_path / "no.json")
    assert missing.exit_code == 2
    assert "Cannot read the list" in missing.stderr
    (tmp_path / "empty.json").write_text("[]")
    assert "has no entries" in run(tmp_path / "empty.json").stderr
