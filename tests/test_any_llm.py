"""Any causal LLM takes both training stages, writes and speaks: nothing but its config and its family's row differs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import tiny_config
from vocalnet import DecodeOptions, load
from vocalnet.audio import write_wav
from vocalnet.experts import experts, without_experts
from vocalnet.model import VocalNet
from vocalnet.training.stage_align import train_alignment
from vocalnet.training.stage_talker import train_talker
from vocalnet.training.stage_text import train_bpe

LLMS = ("llama", "qwen2", "qwen3", "mistral", "gemma")
LOOP = {"steps": 2, "lr": 0.01, "warmup": 1, "log_every": 1}


def _model(model_type: str, n_layers: int = 1) -> VocalNet:
    torch.manual_seed(0)
    parts = tiny_config()
    llm = {**parts.llm, "model_type": model_type, "num_key_value_heads": 1, "head_dim": 16}
    llm["num_hidden_layers"] = n_layers
    parts = dataclasses.replace(parts, llm=llm, family="generic")
    return VocalNet(parts, train_bpe(["What is two plus two?", "It is four."] * 3, 300))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of noise with answers and speech tokens, in the released format."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    entries = []
    for i in range(4):
        write_wav(folder / f"{i}.wav", (0.1 * rng.standard_normal(12_000)).astype(np.float32), 16_000)
        np.save(folder / f"{i}.npy", rng.integers(0, 27, 9))
        conversations = [{"from": "human", "value": "<speech>"}, {"from": "gpt", "value": "It is four."}]
        entry = {"id": str(i), "speech": f"{i}.wav", "units": f"{i}.npy", "conversations": conversations}
        entries.append(entry | {"question": "What is two plus two?", "voice": "test"})
    for split in ("train", "dev"):
        (folder / f"{split}.json").write_text(json.dumps(entries))
    return folder


def _key(path: str) -> str:
    """The name of the text weight beside an expert."""
    return f"{path.replace('/', '.')}.weight"


def _losses(folder: Path) -> list[float]:
    return [json.loads(line)["total"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("model_type", LLMS)
def test_an_llm_goes_through_both_stages_and_answers(model_type, data, question, tmp_path):
    model = _model(model_type)
    assert model.llm.config.model_type == model_type
    before = {name: value.clone() for name, value in model.llm.state_dict().items()}
    shared = {"batch_size": 2, "n_dev": 2, "eval_every": 2}
    lora = {"rank": 2, "alpha": 2, "dropout": 0.0}
    stage_1 = {
        **shared,
        "loop": LOOP,
        "lora": lora,
        "bf16": True,
        "transcribe": 0.5,
        "recognise": 0.5,
    }
    train_alignment(model, data, tmp_path / "stage1", stage_1, seed=1)
    after = model.llm.state_dict()
    assert set(after) == set(before), "the merge leaves the LLM's own keys"
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.endswith("proj.weight") for name in changed), "only what LoRA adapts changes"
    train_talker(
        model,
        data,
        tmp_path / "stage2",
        {**shared, "loop": LOOP, "per_answer": 4, "typed": False, "corrupt": 0.2, "bf16": False},
        seed=1,
    )
    for stage in ("stage1", "stage2"):
        assert all(np.isfinite(_losses(tmp_path / stage)))

    model.save_pretrained(tmp_path / "checkpoint")
    again = load(tmp_path / "checkpoint")
    written = again.respond(audio=question, speech=False)
    assert written.audio is None
    spoken = again.respond(audio=question, options=DecodeOptions(max_tokens=12, min_tokens=12))
    assert spoken.text == written.text
    assert len(spoken.speech_tokens) == 12
    assert np.isfinite(spoken.audio).all()


@pytest.mark.parametrize("model_type", LLMS)
def test_stage_1_by_experts_leaves_the_llms_text_weights_alone(model_type, data, question, tmp_path):
    model = _model(model_type)
    before = {name: value.clone() for name, value in model.llm.state_dict().items()}
    options = {"batch_size": 2, "n_dev": 2, "eval_every": 2, "loop": LOOP, "bf16": False}
    train_alignment(
        model, data, tmp_path, {**options, "method": "experts", "transcribe": 0.5, "recognise": 0.5}, seed=1
    )
    assert model.parts.experts
    for name, value in without_experts(model.llm.state_dict()).items():
        assert torch.equal(value, before[name]), name
    moved = [part for path, part in experts(model.llm).items() if not torch.equal(part.weight, before[_key(path)])]
    assert moved
    assert all(np.isfinite(_losses(tmp_path)))
    model.save_pretrained(tmp_path / "checkpoint")
    assert load(tmp_path / "checkpoint").respond(audio=question, speech=False).text is not None
    with pytest.raises(ValueError, match=r"no method 'expert' for this stage\. Available: lora, experts"):
        train_alignment(model, data, tmp_path, {**options, "method": "expert"}, seed=1)


def test_hearing_trains_encoder_and_adaptor_alone_on_clips_with_and_without_answers(data, tmp_path):
    entries = json.loads((data / "train.json").read_text())
    lists = [{key: value for key, value in entry.items() if key != "conversations"} for entry in entries]
    (data / "drills.json").write_text(json.dumps(lists))
    model = _model("llama")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options = {"batch_size": 4, "n_dev": 2, "eval_every": 2, "loop": LOOP, "bf16": False, "method": "hearing"}
    options |= {"transcribe": 0.0, "recognise": 0.5}
    train_alignment(model, data, tmp_path / "both", {**options, "lists": ["drills", "train"], "masked": True}, seed=1)
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"encoder", "adaptor"}
    assert all(np.isfinite(_losses(tmp_path / "both")))
    train_alignment(model, data, tmp_path / "words", {**options, "lists": ["drills"]}, seed=1)
    log = [json.loads(line) for line in (tmp_path / "words" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["answer"] == 0 and row["ctc"] > 0 for row in log)  # the LLM has no say on lists of words
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    n_layers = len(model.encoder.whisper.layers)
    train_alignment(model, data, tmp_path / "last", {**options, "layers": n_layers - 1}, seed=1)
    moved = {name for name, value in model.encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[2] for name in moved} == {str(n) for n in range(1, n_layers)}
    assert all(".layers." in name for name in moved)
    with pytest.raises(ValueError, match="choose how many of its last"):
        train_alignment(model, data, tmp_path / "more", {**options, "layers": 9}, seed=1)


@pytest.mark.parametrize("model_type", LLMS)
def test_answering_trains_some_layers_of_the_llm_and_keeps_its_states(model_type, data, tmp_path):
    options = {"batch_size": 4, "n_dev": 2, "eval_every": 2, "bf16": False, "method": "answering", "llm_layers": [1]}
    options |= {"transcribe": 0.0, "recognise": 0.0, "loop": {**LOOP, "steps": 6}}
    distances = []
    for keep in (0.0, 100.0):
        model = _model(model_type, 2)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        train_alignment(model, data, tmp_path / f"{keep}", {**options, "keep": keep}, seed=1)
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert moved
        assert all(name.startswith("llm.model.layers.1.") for name in moved)
        log = [json.loads(line) for line in (tmp_path / f"{keep}" / "metrics.jsonl").read_text().splitlines()]
        assert log[0]["moved"] == 0
        assert log[-1]["answer"] < log[0]["answer"]
        distances.append(log[-1]["moved"])
    assert distances[1] < 0.5 * distances[0]


def test_answering_names_layers_that_are_not_there_and_wants_answers(data, tmp_path):
    options = {"batch_size": 4, "n_dev": 2, "eval_every": 2, "loop": LOOP, "bf16": False, "method": "answering"}
    options |= {"transcribe": 0.0, "recognise": 0.0}
    for numbers in ([], [2], [-1]):
        with pytest.raises(ValueError, match="the LLM has layers 0 to 1: choose some"):
            train_alignment(_model("llama", 2), data, tmp_path, {**options, "llm_layers": numbers}, seed=1)
    entries = json.loads((data / "train.json").read_text())
    unanswered = [{key: value for key, value in entry.items() if key != "conversations"} for entry in entries]
    (data / "unanswered.json").write_text(json.dumps(unanswered))
    lists = {"lists": ["train", "unanswered"], "llm_layers": [1]}
    with pytest.raises(ValueError, match="leave lists without answers out"):
        train_alignment(_model("llama"), data, tmp_path, {**options, **lists}, seed=1)


@pytest.mark.parametrize("model_type", LLMS)
def test_the_training_forward_is_differentiable_down_to_the_adaptor(model_type):
    model = _model(model_type)
    features = [torch.randn(20, 32), torch.randn(35, 32)]
    pieces = [[1, 2], [3]]
    loss = model(features, [pieces, pieces], [[5, 6, 7], [8, 9]], [torch.arange(9), torch.arange(5)], "streaming")
    loss.backward()
    assert loss.isfinite()
    assert model.adaptor.linear1.weight.grad.abs().sum() > 0
