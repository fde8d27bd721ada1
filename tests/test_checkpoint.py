"""Checkpoint folders: round trip, strict keys, clear sentences."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vocalnet
from vocalnet.checkpoint import components, describe, load, save_decoder
from vocalnet.decoder import kernels
from vocalnet.decoder.talker import Talker

OPTIONS = vocalnet.DecodeOptions(tokens_per_step=1, max_tokens=9, min_tokens=9)


@pytest.fixture
def folder(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def varied(tiny_model, folder):
    """The folder with two further decoders, and their talkers as they were saved."""
    own = tiny_model.parts.talker
    talkers = {}
    for name, changes in {"ntp": {"head": "ntp"}, "group_linear_3": {"head": "group_linear", "group_size": 3}}.items():
        talkers[name] = Talker(replace(own, **changes)).half().float().eval()
        save_decoder(folder, name, talkers[name], own, torch.float16)
    return folder, talkers


def same_weights(found: torch.nn.Module, expected: torch.nn.Module) -> bool:
    """Says whether two modules would be saved alike, however they are prepared."""
    weights = found.state_dict()
    return all(torch.equal(weights[key], weight) for key, weight in expected.state_dict().items())


def test_save_and_load_give_the_same_answer(tiny_model, folder, question):
    loaded = vocalnet.VocalNet.from_pretrained(folder)
    again = folder.parent / "again"
    loaded.save_pretrained(again)
    for name, _ in components(tiny_model):
        first, second = (load_file(f / f"{name}.safetensors") for f in (folder, again))
        if name == "hift":  # saved as loaded for inference: weight norm is folded in
            continue
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    options = vocalnet.DecodeOptions(max_tokens=9)
    want, got = (m.respond(audio=question, options=options) for m in (tiny_model.half().float(), loaded))
    assert got.text == want.text
    assert got.speech_tokens == want.speech_tokens


def test_every_missing_and_unexpected_key_is_named(folder):
    path = folder / "adaptor.safetensors"
    weights = load_file(path)
    weights["extra.weight"] = weights.pop("linear1.bias")
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"missing: linear1\.bias; unexpected: extra\.weight"):
        load(folder)


def test_a_missing_component_is_named(folder):
    (folder / "llm.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no llm\.safetensors"):
        load(folder)
    assert any("llm.safetensors" in line for line in describe(folder)["missing"])


def test_wrong_names_are_explained(tmp_path, folder):
    with pytest.raises(ValueError, match="no checkpoint folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"has no config\.json"):
        load(tmp_path)
    with pytest.raises(ValueError, match="no decoder 'ntp'"):
        load(folder, decoder="ntp")
    with pytest.raises(ValueError, match="Unknown dtype"):
        load(folder, dtype="int7")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="holds a 'bert' model"):
        load(folder)


def test_describe_counts_what_is_there(tiny_model, folder):
    found = describe(folder)
    assert found["missing"] == []
    assert found["components"]["adaptor"]["parameters"] == sum(p.numel() for p in tiny_model.adaptor.parameters())
    assert found["sample_rate_hz"] == 16000


def test_a_decoder_is_chosen_by_name(tiny_model, varied, question):
    folder, talkers = varied
    assert json.loads((folder / "heads" / "ntp.json").read_text()) == {"head": "ntp"}
    assert load(folder).decoders == ["mtp_vocalnet", "group_linear_3", "ntp"]
    for name, talker in talkers.items():
        loaded = load(folder, decoder=name)
        assert loaded.decoders[0] == name
        assert loaded.max_tokens_per_step == talker.head.n_heads
        assert asdict(loaded.talker.config) == asdict(talker.config)
        assert same_weights(loaded.talker, talker)
        switched = load(folder).with_decoder(name)
        options = replace(OPTIONS, tokens_per_step=talker.head.stride)
        want, got = (m.respond(audio=question, options=options) for m in (loaded, switched))
        assert got.speech_tokens == want.speech_tokens
        assert got.speech_tokens


def test_decoders_of_one_model_share_all_else(varied, question):
    model = load(varied[0], dtype="bfloat16")
    own = model.talker
    ntp = model.with_decoder("ntp")
    assert (model.decoders[0], ntp.decoders[0]) == ("mtp_vocalnet", "ntp")
    assert model.talker is own is ntp.with_decoder("mtp_vocalnet").talker
    assert ntp.talker is model.with_decoder("ntp").talker, "read twice"
    assert ntp.talker.embedding.weight.dtype == torch.bfloat16
    for name in ("encoder", "adaptor", "llm", "vocoder", "speech_tokenizer"):
        assert getattr(ntp, name) is getattr(model, name)
    assert model.with_decoder("mtp_vocalnet") is model
    assert ntp.parts.talker.head == "ntp"
    with pytest.raises(ValueError, match=r"no decoder 'nt'\. Available: ntp, mtp_vocalnet, group_linear_3\."):
        ntp.with_decoder("nt")


def test_all_decoders_are_saved_the_loaded_one_first(varied):
    folder, talkers = varied
    again = folder.parent / "again"
    load(folder, decoder="group_linear_3").save_pretrained(again)
    loaded = load(again)
    assert loaded.decoders == ["group_linear_3", "mtp_vocalnet", "ntp"]
    for name, talker in (*talkers.items(), ("mtp_vocalnet", load(folder).talker)):
        found = loaded.with_decoder(name).talker
        assert asdict(found.config) == asdict(talker.config)
        assert same_weights(found, talker)


def test_a_checkpoint_without_a_talker_has_no_decoder(tiny_model):
    assert vocalnet.VocalNet(replace(tiny_model.parts, talker=None)).decoders == []


def test_decoders_are_described_and_their_faults_named(varied):
    folder = varied[0]
    found = describe(folder)
    assert found["decoders"] == ["mtp_vocalnet", "group_linear_3", "ntp"]
    assert found["components"]["heads/ntp"]["parameters"] < found["components"]["talker"]["parameters"]
    (folder / "heads" / "ntp.safetensors").unlink()
    assert [line.split(":")[0] for line in describe(folder)["missing"]] == ["heads/ntp.safetensors"]
    with pytest.raises(ValueError, match=r"no ntp\.safetensors"):
        load(folder).with_decoder("ntp")
    (folder / "heads" / "group_linear_3.json").write_text('{"head": "group_linear", "grup_size": 3}')
    with pytest.raises(ValueError, match="did you mean 'group_size'"):
        load(folder, decoder="group_linear_3")
    (folder / "heads" / "ntp.json").rename(folder / "heads" / "mtp_vocalnet.json")
    with pytest.raises(ValueError, match=r"two decoders 'mtp_vocalnet'\. Rename"):
        load(folder)


@pytest.fixture
def packs_all(monkeypatch):
    """Layers as small as these gain nothing from packing, and would stay plain."""
    monkeypatch.setattr(kernels, "PACKED_FROM", 0)


def kinds(module):
    """Returns the kinds of a module's layers that multiply with weights."""
    return {
        type(part).__name__
        for part in module.modules()
        if "Linear" in type(part).__name__ or "Packed" in type(part).__name__
    }


def test_on_a_cpu_a_model_is_packed_and_answers_and_is_saved_as_a_plain_one(varied, question, packs_all, tmp_path):
    folder = varied[0]
    plain, packed = load(folder, device="cpu", kernel="plain"), load(folder, device="cpu")
    assert (plain.kernel, packed.kernel) == ("plain", "packed")
    assert kinds(packed.talker) == kinds(packed.with_decoder("ntp").talker) == {"JoinedLinear", "PackedLinear"}
    assert kinds(packed.llm) == {"PackedLinear", "Linear"}, "the tied table stays one"
    assert "PackedLinear" in kinds(packed.vocoder.flow_model)
    assert "PackedConv1d" in kinds(packed.vocoder.hift)
    assert kinds(packed.encoder) == {"Linear"}
    for name in ("mtp_vocalnet", "ntp"):
        options = replace(OPTIONS, tokens_per_step=1)
        want, got = (m.with_decoder(name).respond(audio=question, options=options) for m in (plain, packed))
        assert (got.text, got.speech_tokens) == (want.text, want.speech_tokens)
    for name, model in (("plain", plain), ("packed", packed)):
        model.save_pretrained(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*.safetensors"))
    assert Path("heads/ntp.safetensors") in files
    for path in files:
        first, second = load_file(tmp_path / "plain" / path), load_file(tmp_path / "packed" / path)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_an_int8_model_speaks_and_refuses_to_be_saved(varied, question, packs_all, tmp_path):
    model = load(varied[0], device="cpu", kernel="int8")
    assert kinds(model.llm) == {"PackedLinear", "Linear"}
    for each in (model, model.with_decoder("ntp")):
        assert "DynamicQuantizedLinear" in repr(each.talker)
        assert len(each.respond(audio=question, options=OPTIONS).stats) == 9
    with pytest.raises(ValueError, match="int8 weights cannot be saved"):
        model.save_pretrained(tmp_path / "int8")
    assert not (tmp_path / "int8").exists()


def test_a_kernel_that_cannot_be_used_is_refused_before_anything_is_read(folder):
    (folder / "llm.safetensors").unlink()
    with pytest.raises(ValueError, match="available: plain, packed, int8"):
        load(folder, kernel="fast")
    with pytest.raises(ValueError, match="int8 kernel starts from float32"):
        load(folder, kernel="int8", dtype="bfloat16", device="cpu")
    with pytest.raises(ValueError, match="graphed kernel records CUDA graphs"):
        load(folder, kernel="graphed", device="cpu")


def test_sound_is_neither_loaded_nor_saved_in_half_precision(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    loaded = load(tmp_path / "model", dtype="bfloat16", kernel="plain")
    assert loaded.llm.dtype == loaded.adaptor.linear1.weight.dtype == torch.bfloat16
    for name, part in components(tiny_model):
        if name in ("flow", "speech_tokenizer"):
            kept = dict(components(loaded))[name].state_dict()
            assert all(torch.equal(kept[key], value) for key, value in part.state_dict().items())
