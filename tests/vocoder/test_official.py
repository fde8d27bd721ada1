"""The checkout's own vocoder, played by a stand-in package: what it is asked, and how its absence is explained."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from vocalnet.vocoder.official import load_official

N_MELS, SAMPLES = 8, 4  # SAMPLES per mel frame
EMPTY = {"cosyvoice/__init__": "", "cosyvoice/cli/__init__": ""}  # what an incomplete package has
MODEL = '''
import numpy as np
import torch

class CosyVoice2Model:
    """Mel frames count up with the token; each sample is its frame's; the last frame waits for the next call."""

    def __init__(self, llm, flow, hift, fp16=False):
        self.device = torch.device("cpu")
        self.llm, self.flow, self.hift = llm, flow, hift
        self.llm.fp16 = fp16
        self.token_hop_len = 5
        self.hift_cache_dict = {}
        self.calls = []

    def token2wav(self, token, prompt_token, prompt_feat, embedding, token_offset, uuid, STREAMfinalize=False):
        self.calls.append((token.shape[1], token_offset, finalize))
        assert prompt_token.shape == (1, 0) and prompt_feat.shape == (1, 0, 8) and embedding.shape == (1, 3)
        mel = self.flow.inference(token, None, prompt_token, None, prompt_feat, None, embedding, FLAGfinalize)[0]
        mel = mel[..., 2 * token_offset :]
        if self.hift_cache_dict[uuid] is not None:
            mel = torch.cat([self.hift_cache_dict[uuid], mel], dim=2)
        if not finalize:
            self.hift_cache_dict[uuid], mel = mel[..., -1:], mel[..., :-1]
        return self.hift.inference(mel, torch.zeros(1, 1, 0))[0]
'''
PARTS = """
import torch

class Flow(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.output_size = 8
        self.spk_embed_affine_layer = torch.nn.Linear(3, 8)

    def inference(
        self, token, token_len, prompt_token, prompt_token_len, prompt_feat, prompt_feat_len, embedding, FLAGfinalize
    ):
        known = token[:, : token.shape[1] - (0 if finalize else 3)]
        frames = known.repeat_interleave(2, 1).float()[:, None].expand(1, 8, -1)
        return frames, None

class Hift(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))

    def inference(self, speech_feat, cache_source=torch.zeros(1, 1, 0)):
        wave = self.gain * speech_feat[:, 0].repeat_interleave(4, 1)
        return wave, wave[None]

def load_hyperpyyaml(file, overrides):
    assert "sample_rate" in file.read() and overrides == {"llm": None}
    return {"sample_rate": 24000, "flow": Flow(), "hift": Hift()}
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], None]]:
    """Writes packages into a folder of the Python path, forgotten after the test."""
    root = tmp_path / "path"
    root.mkdir()
    monkeypatch.syspath_prepend(root)
    before = set(sys.modules)

    def write(texts: dict[str, str]) -> None:
        for name, text in texts.items():
            path = root / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("cosyvoice", "hyperpyyaml"):
            del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A CosyVoice 2 folder for the stand-in."""
    path = tmp_path / "CosyVoice2-0.5B"
    path.mkdir()
    (path / "cosyvoice2.yaml").write_text("sample_rate: 24000\nllm: !new:torch.nn.Identity\n")
    linear = torch.nn.Linear(3, N_MELS)
    torch.save({f"spk_embed_affine_layer.{key}": value for key, value in linear.state_dict().items()}, path / "flow.pt")
    torch.save({"generator.gain": torch.tensor([2.0])}, path / "hift.pt")
    return path


@pytest.fixture(params=["with stream", "older"])
def vocoder(request: Any, packages: Callable[[dict[str, str]], None], folder: Path) -> Any:
    """The stand-in, in the newer version that is told about streaming and in the older one that is not."""
    is_newer = request.param == "with stream"
    model = MODEL.replace("STREAM", "stream=False, " if is_newer else "").replace(
        "FLAG", "stream, " if is_newer else ""
    )
    parts = PARTS.replace("FLAG", "streaming, " if is_newer else "")
    packages({**EMPTY, "cosyvoice/cli/model": model, "hyperpyyaml": parts})
    return load_official(folder)


def test_one_shot(vocoder: Any) -> None:
    mel = vocoder.flow([3, 1])
    assert mel.shape == (1, N_MELS, 4)
    wave, _ = vocoder.vocode(mel)
    assert wave[0].tolist() == [6.0] * 2 * SAMPLES + [2.0] * 2 * SAMPLES  # hift.pt's gain is 2
    assert vocoder.sample_rate_hz == 24_000


def test_streaming_asks_for_the_checkouts_hops(vocoder: Any) -> None:
    tokens = list(range(20))
    stream = vocoder.token_stream()
    pieces = [
        samples for start in range(0, 20, 4) for _, samples in stream.push(tokens[start : start + 4], last=start == 16)
    ]
    whole, _ = vocoder.vocode(vocoder.flow(tokens))
    assert torch.equal(torch.cat(pieces, dim=1), whole)
    assert vocoder.model.calls == [(8, 0, False), (18, 5, False), (20, 15, True)]
    assert vocoder.model.hift_cache_dict == {}
    assert len(list(vocoder.token_stream().push([5], last=True))) == 1


def test_without_a_checkout(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no CosyVoice checkout on the Python path.*PYTHONPATH"):
        load_official(folder)


def test_an_incomplete_package_is_recognised(folder: Path, packages: Callable[[dict[str, str]], None]) -> None:
    packages(EMPTY)
    with pytest.raises(ValueError, match=r"incomplete.*from PyPI is"):
        load_official(folder)


def test_a_missing_requirement_is_named(folder: Path, packages: Callable[[dict[str, str]], None]) -> None:
    packages({**EMPTY, "cosyvoice/cli/model": "import no_such_package"})
    with pytest.raises(ValueError, match="needs the package no_such_package"):
        load_official(folder)


def test_wrong_folders_are_explained(vocoder: Any, folder: Path) -> None:
    torch.save({"gain": torch.ones(2)}, folder / "hift.pt")
    with pytest.raises(ValueError, match=r"hift of .* does not fit its cosyvoice2\.yaml"):
        load_official(folder)
    (folder / "hift.pt").unlink()
    with pytest.raises(ValueError, match=r"neither hift\.safetensors nor hift\.pt"):
        load_official(folder)
    (folder / "cosyvoice2.yaml").unlink()
    with pytest.raises(ValueError, match=r"no cosyvoice2\.yaml"):
        load_official(folder)
