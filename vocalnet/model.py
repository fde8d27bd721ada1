"""VocalNet: the assembly of encoder, adaptor, LLM, talker and vocoder, and its training forward.

No generation loop and no state here: those live in session.py. Letters as in config.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from vocalnet.adaptor import Adaptor
from vocalnet.audio import SAMPLE_RATE_HZ, windows
from vocalnet.config import EncoderConfig, VocalNetConfig, from_dict
from vocalnet.decoder.kernels import use_kernel
from vocalnet.decoder.policies import POLICIES
from vocalnet.decoder.talker import Talker
from vocalnet.encoder import CONV_STRIDE, MEL_RATE_HZ, SpeechEncoder
from vocalnet.events import Event, Result
from vocalnet.experts import add_experts, speech_positions
from vocalnet.llm import backbone, build_llm, embed_prompt, embeddings, end_ids, speech_mask, text_end_embedding
from vocalnet.tokens import family
from vocalnet.vocoder.frontend import resample, whisper_mel
from vocalnet.vocoder.official import OfficialVocoder
from vocalnet.vocoder.prompt import VoicePrompt
from vocalnet.vocoder.speech_tokenizer import SpeechTokenizer
from vocalnet.vocoder.token2wav import Token2Wav
from vocalnet.vocoder.voices import Voices

if TYPE_CHECKING:
    from vocalnet.session import Session

Vocoder = Token2Wav | OfficialVocoder


class Shelf:
    """The talkers of one checkpoint by name; each is read when it is first asked for, and once."""

    def __init__(self, names: Sequence[str] = (), read: Callable[[str], Talker] | None = None) -> None:
        """Takes all names, and what reads a talker by its name; without one, talkers are `put`."""
        self.names = list(names)
        self._read = read
        self._talkers: dict[str, Talker] = {}

    def put(self, name: str, talker: Talker) -> None:
        """Keeps a talker that is there already."""
        self._talkers[name] = talker

    def take(self, name: str) -> Talker:
        """Returns a talker, read now if it was not yet."""
        if name not in self._talkers:
            assert self._read is not None
            self._talkers[name] = self._read(name)
        return self._talkers[name]


def check_decoder(where: str, names: Sequence[str], name: str) -> None:
    """Raises ValueError unless a checkpoint has a decoder of that name; the message lists those that it has."""
    if name not in names:
        raise ValueError(f"{where} has no decoder {name!r}. Available: {', '.join(names) or 'none (it only writes)'}.")


def encoder_inputs(samples: np.ndarray, config: EncoderConfig) -> list[tuple[Tensor, int]]:
    """Returns the log-mel (n_mels, T_a) of every window of 16 kHz samples (n,), and how many encoder states count."""
    max_frames = round(config.window_s * MEL_RATE_HZ)
    inputs = []
    for piece in windows(samples, config.window_s):
        n_frames = len(piece) * MEL_RATE_HZ // SAMPLE_RATE_HZ
        if config.pad_to_window:
            n_window = config.window_s * SAMPLE_RATE_HZ
            n_frames = min(max_frames, round(len(piece) / n_window * max_frames + 0.5))  # published
            piece = np.pad(piece, (0, round(config.window_s * SAMPLE_RATE_HZ) - len(piece)))
        mel = whisper_mel(torch.from_numpy(piece), config.n_mels).reshape(config.n_mels, -1)[:, :max_frames]
        inputs.append((mel, max(1, (n_frames + 1) // CONV_STRIDE)))
    return inputs


class VocalNetHubConfig(PretrainedConfig):
    """Carries a VocalNetConfig through transformers; `parts` is the config itself."""

    model_type = "vocalnet"

    def __init__(self, parts: VocalNetConfig | dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.parts = parts if isinstance(parts, VocalNetConfig) else from_dict(VocalNetConfig, parts or {})

    def to_dict(self) -> dict[str, Any]:
        """Returns the flat JSON of a checkpoint's config.json."""
        return self.parts.to_dict()


class VocalNet(PreTrainedModel):
    """A speech LLM. `respond` and `stream` answer one question, `session` holds a conversation."""

    config_class = VocalNetHubConfig
    base_model_prefix = "vocalnet"
    main_input_name = "features"

    def __init__(self, config: VocalNetHubConfig | VocalNetConfig, tokenizer: PreTrainedTokenizerBase | None = None):
        """Builds the model with fresh weights; `load` and `from_pretrained` fill them."""
        super().__init__(config if isinstance(config, VocalNetHubConfig) else VocalNetHubConfig(config))
        parts = self.config.parts
        self.parts: VocalNetConfig = parts
        self._tokenizer = tokenizer
        self.family = family(parts.family)
        self.encoder = SpeechEncoder(parts.encoder)
        self.llm = build_llm(parts.llm)
        if parts.experts:
            add_experts(self.llm)
        llm_dim = embeddings(self.llm).shape[1]
        self.adaptor = Adaptor(parts.encoder.dim, parts.adaptor.hidden_dim, llm_dim, parts.adaptor.rate)
        self.talker = None if parts.talker is None else Talker(parts.talker)
        self.vocoder: Vocoder | None = None  # published checkpoints get one from elsewhere
        if parts.flow is not None and parts.hift is not None:
            self.vocoder = Token2Wav(parts.flow, parts.hift)
        self.speech_tokenizer = None if parts.speech_tokenizer is None else SpeechTokenizer(parts.speech_tokenizer)
        self.shelf = Shelf()  # of the checkpoint's decoders; `load` fills it
        self.kernel = "plain"  # of talker and LLM; `load` chooses it
        self.load_s = 0.0  # how long `load` took, for reports
        self.card: dict[str, Any] = {}  # name, licence and provenance of the weights, for reports

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The LLM's tokenizer."""
        assert self._tokenizer is not None, "this model was built for its shapes only, without a tokenizer"
        return self._tokenizer

    @property
    def decoders(self) -> list[str]:
        """Decoders that can be chosen; the first is the loaded one."""
        loaded = self.parts.decoder_name
        return [] if loaded is None else [loaded, *(name for name in self.shelf.names if name != loaded)]

    def with_decoder(self, name: str) -> VocalNet:
        """Returns this model with another decoder of its checkpoint; all else is shared, nothing is loaded twice.

        Raises:
            ValueError: the checkpoint has no such decoder.
        """
        check_decoder("This checkpoint", self.decoders, name)
        loaded = self.decoders[0]
        if name == loaded:
            return self
        assert self.talker is not None
        self.shelf.put(loaded, self.talker)
        talker = self.shelf.take(name).to(self.talker.embedding.weight)
        use_kernel(talker, self.kernel)
        model = copy.copy(self)
        model._modules = dict(self._modules)  # the copy's own table of the same modules
        model.talker = talker
        model.parts = replace(self.parts, talker=talker.config, decoder=name)
        return model

    def use_kernel(self, kernel: str) -> None:
        """Prepares LLM, talker and vocoder for inference, in place; see `decoder.kernels`. int8 is for the talker only.

        Raises:
            ValueError: there is no such kernel, or it does not go with the device or the dtype.
        """
        self.kernel = kernel
        exact = "packed" if kernel == "int8" else kernel
        use_kernel(self.llm, exact)
        if self.talker is not None:
            use_kernel(self.talker, kernel)
        if isinstance(self.vocoder, Token2Wav):
            self.vocoder.use_kernel(exact)

    @property
    def policies(self) -> list[str]:
        """Policies that `DecodeOptions` accepts."""
        return list(POLICIES)

    @property
    def max_tokens_per_step(self) -> int:
        """1 + M, the most speech tokens that one step can propose; 0 without a talker."""
        return 0 if self.talker is None else self.talker.head.n_heads

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the answers' audio in Hz; 0 without a vocoder."""
        return 0 if self.vocoder is None else self.vocoder.sample_rate_hz

    @property
    def voices(self) -> list[str]:
        """Names that `voice` accepts besides the path of a recording; none where the vocoder has one voice."""
        return list(self.vocoder.voices.files) if isinstance(self.vocoder, Token2Wav) else []

    def voice(self, name: str | None) -> VoicePrompt | None:
        """Returns the prompt of a voice, None for the default one.

        Raises:
            ValueError: the vocoder takes no voices, there is no such voice, or the recording cannot be used.
        """
        if name is None:
            return None
        voices = self.vocoder.voices if isinstance(self.vocoder, Token2Wav) else Voices()
        return voices.prompt(name)

    def features(self, samples: np.ndarray) -> Tensor:
        """Returns encoder states (T_e, D_e) of 16 kHz mono samples (n,); long audio goes through in windows."""
        rows = []
        for mel, n_states in encoder_inputs(samples, self.parts.encoder):
            states = self.encoder(mel.to(self.device, self.dtype)[None])[0]  # (T_e, D_e)
            rows.append(states[:n_states])
        return torch.cat(rows)

    def adapt(self, features: Tensor) -> Tensor:
        """Returns audio embeddings (L_a, D) of encoder states (T_e, D_e)."""
        return self.adaptor(features[None])[0]

    @torch.inference_mode()
    def resynthesise(self, samples: np.ndarray, sample_rate_hz: int) -> tuple[np.ndarray, int]:
        """Returns speech (n,) after its way through speech tokens and back, and its rate: the ceiling of the talker."""
        assert self.speech_tokenizer is not None
        assert self.vocoder is not None
        wave = resample(samples, sample_rate_hz, SAMPLE_RATE_HZ)
        mel = whisper_mel(wave, self.speech_tokenizer.config.n_mels).to(self.device)
        tokens = self.speech_tokenizer.tokenize(mel)
        return self.vocoder.vocode(self.vocoder.flow(tokens))[0][0].float().cpu().numpy(), self.sample_rate_hz

    def produced_states(
        self,
        features: Sequence[Tensor | None],
        prompts: Sequence[Sequence[Sequence[int]]],
        answers: Sequence[Sequence[int]],
    ) -> list[Tensor]:
        """Runs the LLM over whole prompts with their answers (teacher forcing).

        Args:
            features: encoder states (T_e, D_e) of each question; None: a typed one.
            prompts: two pieces of token ids each, the audio stands between them (`llm.prompt_pieces`); one if typed.
            answers: token ids of each answer, without its end token.

        Returns:
            The states that produced each answer token and its end token, (L + 1, D) per sample. Positions and mask are
            each sample's own: what it gets does not depend on its batch mates.
        """
        embed = self.llm.get_input_embeddings()
        rows, spans, heard = [], [], []
        for states, pieces, answer in zip(features, prompts, answers, strict=True):
            audio = [] if states is None else [self.adapt(states)]
            prompt = embed_prompt(self.llm, pieces, audio)[0]  # (L_p, D)
            row = torch.cat([prompt, embed(torch.tensor(answer, dtype=torch.long, device=self.device))])
            spans.append((len(prompt) - 1, len(row)))
            heard.append(speech_mask(pieces, audio))
            rows.append(row)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        inputs = pad_sequence(rows, batch_first=True)  # (B, L, D)
        mask = torch.arange(inputs.shape[1], device=self.device) < lengths[:, None]
        is_speech = torch.zeros_like(mask)
        for i, marks in enumerate(heard):
            is_speech[i, : len(marks)] = marks
        with speech_positions(is_speech):
            states = backbone(self.llm)(inputs_embeds=inputs, attention_mask=mask.long()).last_hidden_state  # (B, L, D)
        return [states[i, start:stop] for i, (start, stop) in enumerate(spans)]

    def answer_logits(self, produced: Sequence[Tensor], answers: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Returns logits (n, V_t) of all answers' tokens, end tokens included, and what they should be, (n,)."""
        end = end_ids(self.tokenizer, self.family)[0]
        targets = torch.tensor([token for answer in answers for token in (*answer, end)], device=self.device)
        return self.llm.get_output_embeddings()(torch.cat(list(produced))), targets

    def answer_states(
        self,
        features: Sequence[Tensor | None],
        prompts: Sequence[Sequence[Sequence[int]]],
        answers: Sequence[Sequence[int]],
    ) -> tuple[list[Tensor], Tensor]:
        """Returns `produced_states` and the mean cross entropy of the answers' tokens, end tokens included."""
        produced = self.produced_states(features, prompts, answers)
        logits, targets = self.answer_logits(produced, answers)
        return produced, functional.cross_entropy(logits.float(), targets)

    def talker_inputs(self, produced: Sequence[Tensor]) -> list[Tensor]:
        """Returns what the talker hears of each answer, (L_t, D): its tokens' states, then the text end's embedding.

        Deliberate difference from the published code: training and generation hand over the same rows (TALKER traps).
        """
        end = text_end_embedding(self.llm, self.tokenizer, self.family)
        return [torch.cat([states[:-1], end]) for states in produced]

    def forward(
        self,
        features: Sequence[Tensor],
        prompts: Sequence[Sequence[Sequence[int]]],
        answers: Sequence[Sequence[int]],
        units: Sequence[Tensor] | None = None,
        mask: str | Sequence[str] = "full",
    ) -> Tensor:
        """Returns the training loss: stage 1 (answer text), or with speech `units` (L_s,) stage 2 (Eq. 7)."""
        produced, text_loss = self.answer_states(features, prompts, answers)
        if units is None:
            return text_loss
        assert self.talker is not None
        return self.talker.loss(self.talker_inputs(produced), units, mask).total

    def session(self, **kwargs: Any) -> Session:
        """Starts a conversation; see `Session`."""
        from vocalnet.session import Session

        return Session(self, **kwargs)

    def stream(self, **kwargs: Any) -> Iterator[Event]:
        """Yields the events of one answer; arguments of `Session.stream`."""
        return self.session().stream(**kwargs)

    def respond(self, **kwargs: Any) -> Result:
        """Returns one whole answer; arguments of `Session.stream`."""
        return self.session().respond(**kwargs)

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:  # type: ignore[override]
        """Writes a checkpoint folder: one safetensors file per component, config and tokenizer."""
        from vocalnet.checkpoint import save

        save(self, save_directory, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, **kwargs: Any) -> VocalNet:  # type: ignore[override]
        """Loads a checkpoint; the same as `vocalnet.load`."""
        from vocalnet.checkpoint import load

        return load(pretrained_model_name_or_path, **kwargs)
