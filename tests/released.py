"""Writes tiny random checkpoints in the published layout.

Their LLM answers "four." to everything: each letter's embedding points at itself and at the next letter, which is
larger, so a greedy answer walks from the prompt's last line break over the letters to the family's end token.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from vocalnet.config import EstimatorConfig, FlowConfig, FlowEncoderConfig, HiftConfig
from vocalnet.vocoder.token2wav import Token2Wav

Weights = dict[str, Tensor]

ANSWER = "four."
DIM, N_UNITS, N_SPECIAL, MTP_NUM = 32, 27, 4, 2
SPECIAL = {  # the last one ends an answer
    "llama": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "qwen2": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
}
TEMPLATES = {
    "llama": "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content }}<|eot_id|>{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}",
    "qwen2": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{{ '<|im_start|>assistant\\n' }}",
}
N_TEXT = 256 + 4  # bytes and the most special tokens of a family
LLM = {
    "hidden_size": DIM,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": N_TEXT,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}
TIED = {"llama": True, "qwen2": False}  # as in the published 1B and 7B
SPEECH = {
    "architectures": ["OmniSpeech2SForCausalLM"],
    "torch_dtype": "bfloat16",
    "speech_encoder": "/home/authors/models/whisper-large-v3",
    "speech_encoder_type": "whisper",
    "speech_encoder_ds_rate": 5,
    "speech_encoder_hidden_size": 64,
    "tune_speech_generator_only": True,
    "speech_generator_type": "ar_mtp",
    "llm_hidden_size": DIM,
    "decoder_hidden_size": DIM,
    "decoder_num_heads": 2,
    "decoder_ffn_dim": 48,
    "decoder_num_layers": 1,
    "encoder_num_layers": 1,
    "unit_vocab_size": N_UNITS,
    "special_tokens": N_SPECIAL,
    **{f"speech_{name}_token_id": N_UNITS + n for n, name in enumerate(("bos", "sos", "eos", "padding"))},
    "txt_token_num": 2,
    "speech_token_num": 6,
    "mtp_num": MTP_NUM,
}
WHISPER = WhisperConfig(
    num_mel_bins=128,
    d_model=64,
    encoder_layers=2,
    encoder_attention_heads=1,
    encoder_ffn_dim=96,
    max_source_positions=100,  # windows of 2 s
)
OPENAI_NAMES = (
    ("layers.", "blocks."),
    ("self_attn_layer_norm", "attn_ln"),
    ("final_layer_norm", "mlp_ln"),
    ("layer_norm", "ln_post"),
    ("embed_positions.weight", "positional_embedding"),
    ("self_attn.q_proj", "attn.query"),
    ("self_attn.k_proj", "attn.key"),
    ("self_attn.v_proj", "attn.value"),
    ("self_attn.out_proj", "attn.out"),
    ("fc1", "mlp.0"),
    ("fc2", "mlp.2"),
)
FLOW = FlowConfig(
    input_size=32,
    vocab_size=N_UNITS,
    encoder=FlowEncoderConfig(32, 2, 32, 1, 1),
    estimator=EstimatorConfig(channels=(16,), attention_head_dim=8, n_blocks=1, num_mid_blocks=1, num_heads=2),
    n_steps=2,
)
HIFT = HiftConfig(base_channels=16, f0_channels=16)


def write_checkpoint(
    folder: Path,
    family: str = "llama",
    is_speaking: bool = True,
    whisper: str | None = None,
    n_files: int = 1,
    suffix: str = ".safetensors",
    **changes: Any,
) -> Weights:
    """Writes a checkpoint and returns its weights under the published names.

    Args:
        family: "llama" or "qwen2".
        whisper: names of the encoder's weights inside, "hf" or "openai"; None: it is not inside.
        n_files: more than one: shards with an index.
        suffix: ".safetensors" or ".bin".
        changes: other values in config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = f"omni_speech2s_{family}" if is_speaking else f"omni_speech_{family}"
    values = {"model_type": kind, **LLM, "tie_word_embeddings": TIED[family], **SPEECH, **changes}
    (folder / "config.json").write_text(json.dumps(values))
    text = tokenizer(family)
    text.save_pretrained(folder)
    weights = {**llm_weights(family, text, {key: values[key] for key in LLM}), **adaptor_weights(values["hidden_size"])}
    if is_speaking:
        weights |= talker_weights()
    if whisper is not None:
        weights |= {f"model.speech_encoder.{key}": value for key, value in whisper_weights(whisper).items()}
    weights = {key: value.to(torch.bfloat16).contiguous() for key, value in weights.items()}
    write_weights(folder, weights, n_files, suffix)
    return weights


def write_lora(folder: Path, base: Path, family: str = "llama") -> Weights:
    """Writes a speech-to-text LoRA folder of the LLM in `base`, and returns the adapter's weights."""
    folder.mkdir(parents=True)
    values = {"model_type": f"omni_speech_{family}", **LLM, "tie_word_embeddings": TIED[family], **SPEECH}
    (folder / "config.json").write_text(json.dumps(values))
    adapter = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": 4,
        "lora_alpha": 2,
        "lora_dropout": 0.05,
        "bias": "none",
        "target_modules": ["q_proj", "down_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    torch.manual_seed(5)
    changes: Weights = {}
    for n in range(LLM["num_hidden_layers"]):
        for name, width in (("self_attn.q_proj", DIM), ("mlp.down_proj", LLM["intermediate_size"])):
            key = f"base_model.model.model.layers.{n}.{name}"
            changes[f"{key}.lora_A.weight"] = 0.1 * torch.randn(4, width)
            changes[f"{key}.lora_B.weight"] = 0.1 * torch.randn(DIM, 4)
    save_file(changes, folder / "adapter_model.safetensors")
    rest = {f"base_model.model.{key}": value for key, value in adaptor_weights(DIM).items()}
    torch.save(rest, folder / "non_lora_trainables.bin")
    return changes


def write_llm(folder: Path, family: str = "llama") -> Weights:
    """Writes the plain LLM that a LoRA folder adapts, and returns its weights."""
    folder.mkdir(parents=True)
    text = tokenizer(family)
    text.save_pretrained(folder)
    weights = llm_weights(family, text)
    (folder / "config.json").write_text(json.dumps({"model_type": family, **LLM}))
    write_weights(folder, weights, 1, ".safetensors")
    return weights


def write_whisper(path: Path) -> None:
    """Writes a whole Whisper: a folder as transformers has it, or OpenAI's file if the name ends with .pt."""
    is_openai = path.suffix == ".pt"
    weights = whisper_weights("openai" if is_openai else "hf")
    if is_openai:
        state = {f"encoder.{key}": value for key, value in weights.items()} | {"decoder.ln.weight": torch.ones(64)}
        torch.save({"dims": {"n_audio_state": 64}, "model_state_dict": state}, path)
        return
    path.mkdir(parents=True)
    WHISPER.save_pretrained(path)
    state = {f"model.encoder.{key}": value for key, value in weights.items()}
    save_file({**state, "model.decoder.layer_norm.weight": torch.ones(64)}, path / "model.safetensors")


def write_vocoder(folder: Path, suffix: str = ".safetensors") -> None:
    """Writes a vocoder of the CosyVoice 2 layout for the talker's 27 units, at 24 kHz."""
    folder.mkdir(parents=True)
    torch.manual_seed(6)
    vocoder = Token2Wav(FLOW, HIFT)
    (folder / "config.json").write_text(
        json.dumps({"flow": dataclasses.asdict(FLOW), "hift": dataclasses.asdict(HIFT)})
    )
    for name, part in (("flow", vocoder.flow_model), ("hift", vocoder.hift)):
        save = torch.save if suffix == ".pt" else save_file
        save(part.state_dict(), folder / f"{name}{suffix}")


def write_weights(folder: Path, weights: Weights, n_files: int, suffix: str) -> None:
    """Writes weights as one file, or as shards with an index."""
    stem = {".safetensors": "model", ".bin": "pytorch_model"}[suffix]
    save = torch.save if suffix == ".bin" else save_file
    if n_files == 1:
        save(weights, folder / f"{stem}{suffix}")
        return
    names = [f"{stem}-{n + 1:05}-of-{n_files:05}{suffix}" for n in range(n_files)]
    for n, name in enumerate(names):
        save(dict(list(weights.items())[n::n_files]), folder / name)
    places = {key: names[n % n_files] for n, key in enumerate(weights)}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Returns a tokenizer of bytes with the family's special tokens and chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_TEXT,
        special_tokens=list(SPECIAL[family]),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([], trainer)
    text = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=SPECIAL[family][-1])
    text.chat_template = TEMPLATES[family]
    return text


def llm_weights(family: str, text: PreTrainedTokenizerFast, sizes: dict[str, Any] = LLM) -> Weights:
    """Returns the weights of an LLM that answers ANSWER."""
    torch.manual_seed(1)
    config = AutoConfig.for_model(family, tie_word_embeddings=TIED[family], **sizes)
    weights = AutoModelForCausalLM.from_config(config).state_dict()
    table = weights["model.embed_tokens.weight"]
    chain = [*text.encode(f"\n{ANSWER}", add_special_tokens=False), text.convert_tokens_to_ids(SPECIAL[family][-1])]
    for n, token in enumerate(chain):
        table[token] = 0
        table[token, n : n + 2] = 1000 * 3.0**n  # so large that the layers, which add to it, change no answer
    if TIED[family]:
        del weights["lm_head.weight"]
    else:
        weights["lm_head.weight"] = table.clone()
    return weights


def adaptor_weights(dim: int) -> Weights:
    """Returns the downsample adaptor's weights."""
    torch.manual_seed(2)
    shapes = {
        "linear1.weight": (24, 5 * 64),
        "linear1.bias": (24,),
        "linear2.weight": (dim, 24),
        "linear2.bias": (dim,),
    }
    return {f"model.speech_projector.{key}": 0.05 * torch.randn(shape) for key, shape in shapes.items()}


def talker_weights() -> Weights:
    """Returns the talker's weights; it never ends before its limit."""
    torch.manual_seed(3)
    ffn, n_tokens = SPEECH["decoder_ffn_dim"], N_UNITS + N_SPECIAL

    def layer(prefix: str) -> Iterator[tuple[str, Tensor]]:
        for name in "qkvo":
            yield f"{prefix}.self_attn.{name}_proj.weight", 0.3 * torch.randn(DIM, DIM)
        for name, shape in (("gate", (ffn, DIM)), ("up", (ffn, DIM)), ("down", (DIM, ffn))):
            yield f"{prefix}.mlp.{name}_proj.weight", 0.3 * torch.randn(shape)
        for name in ("input", "post_attention"):
            yield f"{prefix}.{name}_layernorm.weight", torch.ones(DIM)

    def output(prefix: str, norm: str) -> Iterator[tuple[str, Tensor]]:
        yield f"{prefix}{norm}.weight", torch.ones(DIM)
        yield f"{prefix}output_proj.weight", torch.randn(n_tokens, DIM)
        yield f"{prefix}output_proj.bias", torch.tensor([0.0] * N_UNITS + [-1000.0] * N_SPECIAL)

    own: Weights = {"embedding.weight": torch.randn(n_tokens, DIM)}
    for prefix in ("encode_layers.0", "decode_layers.0"):
        own |= dict(layer(prefix))
    own |= dict(output("", "norm"))
    for n in range(MTP_NUM):
        own |= dict(layer(f"mtp_layers.{n}.decoder_layer")) | dict(output(f"mtp_layers.{n}.", "norm_final"))
    own["decode_layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)  # older files hold it
    return {f"speech_generator.{key}": value for key, value in own.items()}


def whisper_weights(names: str) -> Weights:
    """Returns the encoder's weights under the names of transformers ("hf") or "openai"."""
    torch.manual_seed(4)
    weights = {key: value.clone() for key, value in WhisperEncoder(WHISPER).state_dict().items()}
    if names == "hf":
        return weights
    renamed: Weights = {}
    for key, value in weights.items():
        for theirs, openai in OPENAI_NAMES:
            key = key.replace(theirs, openai)
        renamed[key] = value
    return renamed
