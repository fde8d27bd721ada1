"""Published checkpoints: tiny ones answer from the command line, wrong ones are explained, real sizes map exactly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from released import ANSWER, DIM, N_UNITS, write_checkpoint, write_llm, write_lora, write_vocoder, write_whisper
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import vocalnet
from vocalnet import released, shards
from vocalnet.__main__ import app
from vocalnet.checkpoint import describe, load, save
from vocalnet.decoder.kernels import PackedLinear
from vocalnet.released import check_fit, empty_model, model_config

ENCODERS = ("whisper", "whisper.pt")
LAYOUTS = sorted((Path(__file__).parent / "golden" / "layouts").glob("*.json"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Checkpoints of both families, and what they are given."""
    root = tmp_path_factory.mktemp("released")
    write_checkpoint(root / "llama", "llama", whisper="openai")
    write_checkpoint(root / "qwen2", "qwen2", n_files=3)
    write_checkpoint(root / "text", "qwen2", is_speaking=False, n_files=2, suffix=".bin", whisper="hf")
    write_llm(root / "llm")
    write_lora(root / "lora", root / "llm")
    write_whisper(root / "whisper")
    write_whisper(root / "whisper.pt")
    write_vocoder(root / "vocoder")
    write_vocoder(root / "vocoder-pt", ".pt")
    rng = np.random.default_rng(0)
    soundfile.write(root / "q.wav", 0.1 * rng.standard_normal(24_000), 16_000)
    return root


def answered(folders, command, model, *arguments):
    arguments = [command, "--audio", folders / "q.wav", "--model", folders / model, "--device", "cpu", *arguments]
    result = CliRunner().invoke(app, [str(argument) for argument in (*arguments, "--json")])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("command", "model", "vocoder", "more"),
    [
        ("s2s", "llama", "vocoder", []),
        ("s2s", "qwen2", "vocoder-pt", ["--encoder", "whisper"]),
        ("stream", "qwen2", "vocoder", ["--encoder", "whisper.pt"]),
    ],
)
def test_both_families_speak_from_the_command_line(folders, tmp_path, command, model, vocoder, more):
    places = [argument if argument.startswith("-") else folders / argument for argument in more]
    arguments = ["--out", tmp_path / "a.wav", "--vocoder", folders / vocoder, "--max-tokens", 40, *places]
    record = answered(folders, command, model, *arguments)
    assert record["text"] == ANSWER
    assert record["sample_rate_hz"] == 24_000
    assert record["speech_tokens"]
    assert max(record["speech_tokens"]) < N_UNITS
    assert soundfile.info(tmp_path / "a.wav").frames == 960 * len(record["speech_tokens"])


@pytest.mark.parametrize(
    ("model", "more"),
    [("llama", []), ("text", []), ("lora", ["--encoder", "whisper"]), ("qwen2", ["--encoder", "whisper"])],
)
def test_every_form_writes_from_the_command_line(folders, model, more):
    places = [argument if argument.startswith("-") else folders / argument for argument in more]
    assert answered(folders, "s2t", model, *places)["text"] == ANSWER


def test_the_encoder_is_the_same_wherever_it_is(folders, tmp_path):
    write_checkpoint(tmp_path, is_speaking=False)
    models = [load(folders / "llama"), load(folders / "text"), *(load(tmp_path, folders / e) for e in ENCODERS)]
    states = [model.encoder.state_dict() for model in models]
    for state in states:
        for key, value in states[0].items():
            torch.testing.assert_close(state[key], value, atol=0.01, rtol=0.01)  # those inside are bfloat16
    assert all(model.parts.encoder == models[0].parts.encoder for model in models)
    assert models[0].parts.encoder.window_s == 2.0


def test_the_encoder_argument_wins_over_the_weights_inside(folders, tmp_path):
    write_whisper(tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    weights["model.encoder.conv1.bias"] += 1
    save_file(weights, tmp_path / "other" / "model.safetensors")
    given = load(folders / "llama", tmp_path / "other").encoder.whisper.conv1.bias
    assert torch.equal(given, weights["model.encoder.conv1.bias"])


@pytest.mark.parametrize("model", ["llama", "qwen2"])
def test_the_llm_computes_as_transformers_own(folders, model):
    """Its weights, tied or not, and its rotary buffers, which are in no file."""
    ours = load(folders / model, folders / "whisper").llm
    theirs = AutoModelForCausalLM.from_config(ours.config).eval()
    theirs.load_state_dict(ours.state_dict())
    theirs.tie_weights()
    ids = torch.arange(20)[None]
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits)
    assert ours.config.rope_parameters["rope_theta"] == 500000.0
    assert ours.config.tie_word_embeddings == (model == "llama")


def test_precision_and_what_is_kept(folders, tmp_path):
    model = load(folders / "llama", vocoder=folders / "vocoder", dtype="bfloat16")
    assert {p.dtype for part in (model.encoder, model.adaptor, model.llm, model.talker) for p in part.parameters()} == {
        torch.bfloat16
    }
    assert model.llm.model.rotary_emb.inv_freq.dtype == torch.float32
    assert next(model.vocoder.parameters()).dtype == torch.float32
    assert next(load(folders / "llama").parameters()).dtype == torch.float32
    save(model, tmp_path, torch.bfloat16)  # in our layout, with the vocoder
    again = load(tmp_path)
    assert torch.equal(again.talker.embedding.weight, model.talker.embedding.weight.float())
    assert again.talker.config == model.talker.config
    assert again.vocoder is not None


def test_a_vocoder_of_another_make(folders, tmp_path, monkeypatch):
    """Whatever has the three methods speaks; it is no module, and is not saved."""

    class Hum:
        sample_rate_hz = 8000

        def flow(self, tokens):
            return torch.tensor([tokens])

        def vocode(self, mel):
            return torch.zeros(1, 320 * mel.shape[1]), None

    monkeypatch.setattr("vocalnet.checkpoint.load_official", lambda folder: Hum())
    model = load(folders / "llama", vocoder=folders / "vocoder", vocoder_backend="official")
    options = vocalnet.DecodeOptions.released()
    answer = model.respond(audio=str(folders / "q.wav"), options=replace(options, max_tokens=9))
    assert (answer.sample_rate_hz, len(answer.audio)) == (8000, 320 * len(answer.speech_tokens))
    save(model, tmp_path)
    assert load(tmp_path).vocoder is None


def test_an_adapter_is_merged(folders):
    base = load_file(folders / "llm" / "model.safetensors")
    changes = load_file(folders / "lora" / "adapter_model.safetensors")
    merged = load(folders / "lora", folders / "whisper").llm.state_dict()
    key = "model.layers.1.self_attn.q_proj"
    down, up = (changes[f"base_model.model.{key}.lora_{name}.weight"] for name in "AB")
    torch.testing.assert_close(merged[f"{key}.weight"], base[f"{key}.weight"] + up @ down * (2 / 4))
    assert torch.equal(merged["model.layers.1.self_attn.k_proj.weight"], base["model.layers.1.self_attn.k_proj.weight"])
    assert not any("lora" in name for name in merged)


def test_an_adapter_finds_its_llm(folders, tmp_path):
    write_lora(tmp_path / "lora", Path("/home/authors/llama"))
    with pytest.raises(ValueError, match=r"/home/authors/llama.*base_llm=PATH"):
        load(tmp_path / "lora", folders / "whisper")
    model = load(tmp_path / "lora", folders / "whisper", base_llm=folders / "llm")
    assert model.respond(audio=str(folders / "q.wav"), speech=False).text == ANSWER
    with pytest.raises(ValueError, match="no LoRA folder"):
        load(folders / "llama", base_llm=folders / "llm")


def test_an_adapter_that_does_not_fit_is_named(folders, tmp_path):
    changes = write_lora(tmp_path / "lora", folders / "llm")
    missing = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
    del changes[missing]
    save_file(changes, tmp_path / "lora" / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=missing):
        load(tmp_path / "lora", folders / "whisper")


def test_every_missing_and_unexpected_key_is_named(tmp_path):
    weights = write_checkpoint(tmp_path, whisper="openai")
    missing = {
        "model.layers.1.mlp.up_proj.weight",
        "speech_generator.norm.weight",
        "model.speech_projector.linear2.bias",
    }
    unexpected = {
        "speech_generator.mtp_layers.2.norm_final.weight",
        "model.speech_encoder.blocks.1.attn.key.bias",
        "model.x",
    }
    save_file(
        {key: value for key, value in weights.items() if key not in missing}
        | {key: torch.ones(DIM) for key in unexpected},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(ValueError, match=r"missing: .*; unexpected: ") as caught:
        load(tmp_path)
    named = {key.replace("blocks.1.attn.key", "layers.1.self_attn.k_proj") for key in unexpected} | missing
    assert all(key in str(caught.value) for key in named)


def test_other_shapes_are_named(tmp_path):
    write_checkpoint(tmp_path, is_speaking=False, whisper="hf", intermediate_size=64)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"intermediate_size": 80}))
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.up_proj\.weight is \(64, 32\) instead of \(80, 32\)"):
        load(tmp_path)


def test_what_is_missing_is_explained(folders, tmp_path, monkeypatch):
    import huggingface_hub

    def offline(name, **_):
        raise OSError(name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ValueError, match=r"openai/whisper-large-v3 from the hub.*load\(\.\.\., encoder=PATH\)"):
        load(folders / "qwen2")
    with pytest.raises(ValueError, match=r"vocoder_backend='official' needs a vocoder"):
        load(folders / "llama", vocoder_backend="official")
    with pytest.raises(ValueError, match="Unknown vocoder_backend 'fast'"):
        load(folders / "llama", vocoder=folders / "vocoder", vocoder_backend="fast")
    with pytest.raises(ValueError, match="no decoder 'ntp'"):
        load(folders / "llama", decoder="ntp")
    with pytest.raises(ValueError, match=r"load\(\.\.\., vocoder=PATH\)"):
        load(folders / "llama").respond(audio=str(folders / "q.wav"))
    with pytest.raises(ValueError, match="text only"):
        load(folders / "text").respond(audio=str(folders / "q.wav"))
    write_checkpoint(tmp_path, whisper="hf", n_files=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks model-00002-of-00003\.safetensors"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    missing = " ".join(describe(tmp_path)["missing"])
    assert all(word in missing for word in ("model-00002-of-00003.safetensors", "tokenizer.json", "--vocoder PATH"))


def test_a_file_with_more_than_tensors_is_refused(tmp_path):
    write_checkpoint(tmp_path, whisper="hf")
    (tmp_path / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Path("anything")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="more than tensors"):
        load(tmp_path)
    torch.save(torch.ones(2), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no state dict"):
        load(tmp_path)


def test_describe(folders):
    llama, qwen = describe(folders / "llama"), describe(folders / "qwen2")
    assert set(llama["components"]) == {"llm", "adaptor", "talker", "encoder"}
    assert llama["components"]["talker"]["dtypes"] == ["bfloat16"]
    assert (llama["family"], llama["decoder"], llama["max_tokens_per_step"]) == ("llama3", "mtp_vocalnet", 3)
    assert [line.split(":")[0] for line in llama["missing"]] == ["vocoder"]
    assert "3 file(s)" in qwen["layout"]
    assert [line.split(":")[0] for line in qwen["missing"]] == ["encoder", "vocoder"]
    text, lora = describe(folders / "text"), describe(folders / "lora")
    assert (text["decoder"], text["missing"]) == (None, [])
    assert "LoRA" in lora["layout"]
    assert [line.split(":")[0] for line in lora["missing"]] == ["encoder"]


@pytest.mark.parametrize("path", LAYOUTS, ids=lambda path: path.stem)
def test_published_sizes_map_key_by_key(path):
    """At the published shapes, no key is missing, unexpected or of another shape."""
    golden = json.loads(path.read_text())
    found = {
        released.our_key(pattern.replace("{i}", str(i)), released.MODEL_KEYS): torch.empty(shape, device="meta")
        for pattern, (shape, count) in golden["shapes"].items()
        for i in range(count)
    }
    values = golden["config"]
    if values["tie_word_embeddings"]:
        del found["llm.lm_head.weight"]
    config = model_config(values, found, None)
    model = empty_model(config, found, path.stem)
    assert len(found) == len(model.state_dict()) - values["tie_word_embeddings"]
    assert (config.encoder.n_heads, config.encoder.window_s, config.adaptor.rate) == (20, 30.0, 5)
    for key in list(found)[:: len(found) // 8]:  # the table can fail
        with pytest.raises(ValueError, match="missing"):
            check_fit(model, {name: value for name, value in found.items() if name != key}, path.stem)


def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_loading_takes_no_more_memory_than_the_weights(folders, tmp_path, monkeypatch, suffix):
    """The peak of a load stays within a tenth of the model's own bytes, though the file holds half as many."""
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4}
    write_checkpoint(tmp_path, is_speaking=False, suffix=suffix, **sizes)
    monkeypatch.setattr(shards, "LET_GO_BYTES", 2**20)
    load(folders / "text")  # whatever a first load allocates for good, and a first packing
    PackedLinear(torch.nn.Linear(512, 2048))
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    except OSError:
        pytest.skip("this system does not tell the peak of a process's memory")
    before = memory("VmRSS")
    model = load(tmp_path, folders / "whisper", device="cpu")
    n_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    assert n_bytes > 60e6
    assert memory("VmHWM") - before < 1.1 * n_bytes + 4e6
