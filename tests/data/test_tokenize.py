"""Recordings become tokens: nano's as in training, CosyVoice 2's by its network; stopped work goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from vocalnet.__main__ import app
from vocalnet.checkpoint import save_component
from vocalnet.data import tokenize as module
from vocalnet.data.tokenize import jobs_of_folder, jobs_of_list, open_tokenizer, tokenize
from vocalnet.data.units import read_units
from vocalnet.files import write_json
from vocalnet.training.answers import Answers
from vocalnet.training.corpus import answer_name
from vocalnet.training.stage_tokenizer import write_units
from vocalnet.vocoder.frontend import whisper_mel

ROOT = Path(__file__).parents[2]
ONNX = str(ROOT / "tests/golden/token2wav/tiny_tokenizer.onnx")


@pytest.fixture
def checkpoint(tiny_model, tmp_path):
    """A folder with nothing but a random tokenizer of 27 codes."""
    folder = tmp_path / "checkpoint"
    save_component(folder, "speech_tokenizer", tiny_model.speech_tokenizer, torch.float32)
    write_json(folder / "config.json", tiny_model.parts.to_dict())
    open_tokenizer.cache_clear()
    return folder


@pytest.fixture
def without_units(pairs):
    """The list before its answers were tokenised."""
    shutil.rmtree(pairs.folder / "units")
    return pairs


def test_a_lists_answers_get_the_tokens_that_training_writes(without_units, checkpoint, tiny_model):
    pairs = without_units
    done = tokenize(jobs_of_list(pairs.path), str(checkpoint), n_workers=1)
    assert (done["n_written"], done["n_kept"], done["failed"]) == (4, 0, [])
    assert done["n_tokens"] == sum(len(read_units(pairs.units(i))) for i in range(4))
    for i in range(4):
        samples, _ = soundfile.read(pairs.answer(i), dtype="float32")
        whole = torch.from_numpy(samples[: len(samples) // 640 * 640])
        expected = tiny_model.speech_tokenizer.tokenize(whisper_mel(whole, 80))[0]
        assert read_units(pairs.units(i)).tolist() == expected.tolist()


def test_nanos_recipe_writes_the_same(without_units, checkpoint, tiny_model):
    pairs = without_units
    for i, entry in enumerate(pairs.entries):
        name = answer_name(entry["conversations"][1]["value"])
        pairs.answer(i).rename(pairs.folder / "answers" / f"{name}.wav")
        entry["units"] = f"units/{name}.npy"
    shutil.copyfile(pairs.write(), pairs.folder / "train.json")
    write_units(tiny_model.speech_tokenizer, Answers(pairs.folder, "train", tiny_model.parts.hift), pairs.folder)
    recipe = [read_units(pairs.units(i)) for i in range(4)]
    tokenize(jobs_of_list(pairs.path), str(checkpoint), n_workers=1, is_anew=True)
    assert all(np.array_equal(recipe[i], read_units(pairs.units(i))) for i in range(4))


def test_an_onnx_tokenizer_hears_a_folder(pairs, tmp_path):
    out = tmp_path / "tokens"
    (pairs.folder / "answers" / "deep").mkdir()
    pairs.answer(3).rename(pairs.folder / "answers" / "deep" / "3.wav")
    done = tokenize(jobs_of_folder(pairs.folder / "answers", out), ONNX, n_workers=1)
    assert done["n_written"] == 4
    assert len(read_units(out / "deep" / "3.npy")) == round(2.2 * 25)
    assert json.loads((out / "tokenizer.json").read_text())["tokenizer"] == "tiny_tokenizer.onnx"


def test_work_that_was_stopped_goes_on(without_units, monkeypatch):
    pairs = without_units
    jobs = jobs_of_list(pairs.path)
    heard = []

    def stopping(tokenizer):
        def run(samples):
            heard.append(len(samples))
            if len(heard) == 3:
                raise KeyboardInterrupt
            return np.arange(len(samples) // 640)

        return run

    monkeypatch.setattr(module, "open_tokenizer", stopping)
    with pytest.raises(KeyboardInterrupt):
        tokenize(jobs, ONNX, n_workers=1)
    assert sorted(path.name for path in (pairs.folder / "units").iterdir()) == ["0.npy", "1.npy", "tokenizer.json"]
    done = tokenize(jobs, ONNX, n_workers=1)
    assert (done["n_written"], done["n_kept"], len(heard)) == (2, 2, 5)
    assert [len(read_units(pairs.units(i))) for i in range(4)] == [25, 35, 45, 55]


def test_tokens_of_two_tokenizers_are_not_mixed(pairs, checkpoint):
    jobs = jobs_of_list(pairs.path)
    with pytest.raises(ValueError, match="is not known to have written"):  # the fixture's units tell nothing
        tokenize(jobs, str(checkpoint), n_workers=1)
    tokenize(jobs, str(checkpoint), n_workers=1, is_anew=True)
    assert tokenize(jobs, str(checkpoint), n_workers=1)["n_kept"] == 4
    with pytest.raises(ValueError, match=r"tiny_tokenizer\.onnx is not known to have written"):
        tokenize(jobs, ONNX, n_workers=1)
    pairs.units(0).unlink()
    with pytest.raises(ValueError, match="is not known to have written"):
        tokenize(jobs, ONNX, n_workers=1)


def other_list(pairs):
    """Writes a list of one more answer whose units belong beside those of `pairs`; returns it."""
    entry = {**pairs.entries[0], "id": "more", "units": "units/more.npy", "answer_speech": "answers/0.wav"}
    path = pairs.folder / "more.json"
    path.write_text(json.dumps([entry]))
    return path


@pytest.mark.parametrize("is_anew", [False, True])
def test_a_second_list_does_not_bring_another_tokenizer_into_a_folder(without_units, checkpoint, is_anew):
    pairs = without_units
    tokenize(jobs_of_list(pairs.path), str(checkpoint), n_workers=1)
    before = [pairs.units(i).read_bytes() for i in range(4)]
    record = (pairs.folder / "units" / "tokenizer.json").read_text()
    with pytest.raises(ValueError, match=r"tiny_tokenizer\.onnx is not known to have written"):
        tokenize(jobs_of_list(other_list(pairs)), ONNX, n_workers=1, is_anew=is_anew)
    assert [pairs.units(i).read_bytes() for i in range(4)] == before
    assert (pairs.folder / "units" / "tokenizer.json").read_text() == record
    assert tokenize(jobs_of_list(other_list(pairs)), str(checkpoint), n_workers=1)["n_written"] == 1


def test_nothing_is_removed_before_all_recordings_are_there(pairs):
    jobs = jobs_of_list(pairs.path)
    pairs.answer(3).unlink()
    before = sorted((pairs.folder / "units").iterdir())
    with pytest.raises(ValueError, match=r"There is no recording .*3\.wav"):
        tokenize(jobs, ONNX, n_workers=1, is_anew=True)
    assert sorted((pairs.folder / "units").iterdir()) == before


def run(*arguments):
    return CliRunner().invoke(app, ["data", "tokenize", *(str(a) for a in arguments), "--workers", "1"])


def test_the_command_names_what_it_could_not_hear(without_units, tmp_path):
    pairs = without_units
    pairs.answer(1).write_text("no sound")
    bad = run(pairs.path, "--tokenizer", ONNX)
    assert bad.exit_code == 2
    assert f"{pairs.answer(1)} was not tokenised" in bad.stderr
    assert "3 written" in bad.stdout
    assert not pairs.units(1).exists()
    assert "There is no speech tokenizer" in run(pairs.path, "--tokenizer", tmp_path / "no.onnx").stderr
    pairs.answer(1).unlink()
    assert "has no recording of its answer" in run(pairs.path, "--tokenizer", ONNX).stderr
    assert "Give --out" in run(pairs.folder / "answers", "--tokenizer", ONNX).stderr
