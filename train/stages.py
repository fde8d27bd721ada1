"""The recipes: one function per stage, in the order of training.

Each reads the corpus and the components made before it, and leaves its own components in the checkpoint folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from train.common import Recipe, assemble
from train.heads import train_head
from vocalnet.checkpoint import NANO, load_component, save_component
from vocalnet.experts import experts
from vocalnet.files import write_json
from vocalnet.packing import round_weights
from vocalnet.training.answers import Answers
from vocalnet.training.corpus import build_corpus, build_drills, build_practice
from vocalnet.training.stage_align import llm_layers, train_alignment
from vocalnet.training.stage_encoder import Recogniser, train_encoder
from vocalnet.training.stage_flow import train_flow
from vocalnet.training.stage_pace import train_pace
from vocalnet.training.stage_talker import train_talker
from vocalnet.training.stage_text import train_text
from vocalnet.training.stage_tokenizer import train_tokenizer, write_units
from vocalnet.training.stage_vocoder import train_vocoder
from vocalnet.vocoder.flow import Flow
from vocalnet.vocoder.hift import Hift
from vocalnet.vocoder.speech_tokenizer import SpeechTokenizer

STEPS = 11  # to a deviation, at least, of the weights that are saved (`round_weights`)
LLM_STEPS = 3  # the same of an LLM's layer, which bears coarser ones
Module = TypeVar("Module", bound=nn.Module)


def nano(recipe: Recipe) -> None:
    """Starts from the shipped checkpoint, as if its stages had been run here."""
    shutil.copytree(NANO, recipe.checkpoint, dirs_exist_ok=True)


def synthesize(recipe: Recipe) -> None:
    """Speaks questions in many voices and answers in one; writes the data lists."""
    options = recipe.config
    build_corpus(recipe.data, options["n_train"], options["n_dev"], recipe.seed, options["workers"], options["domain"])
    build_practice(recipe.data, options.get("n_practice", 0), recipe.seed, options["workers"])
    build_drills(recipe.data, options["n_drills"], recipe.seed, options["workers"])


def tokenizer(recipe: Recipe) -> None:
    """Trains the speech tokenizer and writes the tokens of every answer."""
    answers = Answers(recipe.data, "train", recipe.model.hift)
    trained = train_tokenizer(answers, recipe.folder, recipe.model.speech_tokenizer, recipe.config, recipe.seed)
    for split in ("train", "dev"):
        write_units(trained, Answers(recipe.data, split, recipe.model.hift), recipe.data)
    save_component(recipe.checkpoint, "speech_tokenizer", trained)


def units(recipe: Recipe) -> None:
    """Writes the tokens of every answer by the speech tokenizer that the checkpoint has."""
    ready = SpeechTokenizer(recipe.model.speech_tokenizer)
    load_component(recipe.checkpoint, "speech_tokenizer", ready)
    for split in ("train", "dev"):
        write_units(ready.eval().requires_grad_(False), Answers(recipe.data, split, recipe.model.hift), recipe.data)


def vocoder(recipe: Recipe) -> None:
    """Trains HiFT on the answer voice."""
    answers = Answers(recipe.data, "train", recipe.model.hift)
    hift = begin(recipe, "hift", lambda: Hift(recipe.model.hift))
    train_vocoder(hift, answers, recipe.folder, recipe.config, recipe.seed)
    round_weights(hift, STEPS)
    save_component(recipe.checkpoint, "hift", hift, is_packed=True)


def flow(recipe: Recipe) -> None:
    """Trains the flow from speech tokens to mel."""
    answers = Answers(recipe.data, "train", recipe.model.hift)
    trained = begin(recipe, "flow", lambda: Flow(recipe.model.flow))
    train_flow(trained, answers, recipe.data, recipe.folder, recipe.config, recipe.seed)
    round_weights(trained, STEPS)
    save_component(recipe.checkpoint, "flow", trained, is_packed=True)


def goes_on(recipe: Recipe) -> bool:
    """Says whether a stage goes on with what the checkpoint has (`start: checkpoint` in the yaml) or starts afresh.

    Raises:
        ValueError: the yaml says something else there.
    """
    start = recipe.config.get("start")
    if start not in (None, "checkpoint"):
        raise ValueError(f"The stage {recipe.stage} cannot start from {start!r}: say `start: checkpoint`, or nothing.")
    return start is not None


def begin(recipe: Recipe, component: str, make: Callable[[], Module]) -> Module:
    """Returns a component with fresh weights, or with the checkpoint's own if the yaml says `start: checkpoint`."""
    torch.manual_seed(recipe.seed)
    module = make()
    if goes_on(recipe):
        load_component(recipe.checkpoint, component, module)
    return module


def text(recipe: Recipe) -> None:
    """Trains the BPE tokenizer and the LLM on the domain's text; or goes on with the checkpoint's (`start`)."""
    start = None
    if goes_on(recipe):
        ready = assemble(recipe, llm="llm")
        start = (ready.llm, ready.tokenizer)
    llm, bpe = train_text(recipe.folder, recipe.model.llm, recipe.config, recipe.seed, start)
    bpe.save_pretrained(recipe.checkpoint)
    save_component(recipe.checkpoint, "text_llm", llm)


def fresh_recogniser(recipe: Recipe, bpe: PreTrainedTokenizerBase) -> Recogniser:
    """Returns an encoder with the three heads that train it, its weights drawn by the recipe's seed."""
    torch.manual_seed(recipe.seed)
    return Recogniser(recipe.model.encoder, len(bpe), recipe.config["lower_layer"], recipe.config["rate"])


def encoder(recipe: Recipe) -> None:
    """Trains the encoder as a recogniser of the LLM's tokens."""
    bpe = AutoTokenizer.from_pretrained(recipe.checkpoint)
    train_encoder(fresh_recogniser(recipe, bpe), bpe, recipe.data, recipe.folder, recipe.config, recipe.seed)


def drill(recipe: Recipe) -> None:
    """Goes on with the recogniser, on lists of the domain's words as well; the encoder is frozen from here on.

    With `start: checkpoint` the checkpoint's encoder is what goes on, with fresh heads.
    """
    bpe = AutoTokenizer.from_pretrained(recipe.checkpoint)
    recogniser = fresh_recogniser(recipe, bpe)
    if goes_on(recipe):
        load_component(recipe.checkpoint, "encoder", recogniser.encoder.whisper)
    else:
        earlier = torch.load(recipe.folder.parent / "encoder" / "state.pt", weights_only=True)["modules"]
        recogniser.load_state_dict({key.removeprefix("recogniser."): value for key, value in earlier.items()})
    train_encoder(recogniser, bpe, recipe.data, recipe.folder, recipe.config, recipe.seed)
    save_component(recipe.checkpoint, "encoder", recogniser.encoder.whisper)
    save_component(recipe.checkpoint, "token_head", recogniser.tokens)


def pace(recipe: Recipe) -> None:
    """Trains the adaptor to speak in the LLM's own embeddings, from what the recogniser's token head reads."""
    model = assemble(recipe, encoder="encoder", llm="text_llm")
    head = nn.Linear(model.adaptor.linear1.in_features, len(model.tokenizer))
    load_component(recipe.checkpoint, "token_head", head)
    train_pace(model, head, recipe.data, recipe.folder, recipe.config, recipe.seed)
    save_component(recipe.checkpoint, "paced_adaptor", model.adaptor)


def align(recipe: Recipe) -> None:
    """Stage 1: adaptor + LoRA on frozen encoder and LLM, then the merge; or adaptor + speech experts."""
    model = assemble(recipe, encoder="encoder", llm="text_llm", adaptor="paced_adaptor")
    if (recipe.config.get("method") == "experts") != recipe.model.experts:
        raise ValueError("The method experts of the stage align goes with `experts: true` of the model: change one.")
    train_alignment(model, recipe.data, recipe.folder, recipe.config, recipe.seed)
    save_component(recipe.checkpoint, "adaptor", model.adaptor)
    save_component(recipe.checkpoint, "llm", model.llm)
    if recipe.model.experts:
        save_component(recipe.checkpoint, "experts", experts(model.llm))


def hear(recipe: Recipe) -> None:
    """Goes on with encoder and adaptor together, on the LLM as stage 1 left it."""
    model = assemble(recipe, encoder="encoder", llm="llm", adaptor="adaptor")
    train_alignment(model, recipe.data, recipe.folder, recipe.config | {"method": "hearing"}, recipe.seed)
    whisper = model.encoder.whisper
    n_frozen = len(whisper.layers) - recipe.config.get("layers", len(whisper.layers))
    learned = whisper.layers[n_frozen:] if n_frozen else [whisper]
    for module in (*learned, model.adaptor):
        round_weights(module, STEPS)
    save_component(recipe.checkpoint, "encoder", whisper, is_packed=True)
    save_component(recipe.checkpoint, "adaptor", model.adaptor, is_packed=True)


def answer(recipe: Recipe) -> None:
    """Goes on with some layers of the LLM on what it hears; its states stay what the talker has learned from."""
    model = assemble(recipe, encoder="encoder", llm="llm", adaptor="adaptor")
    train_alignment(model, recipe.data, recipe.folder, recipe.config | {"method": "answering"}, recipe.seed)
    for layer in llm_layers(model, recipe.config["llm_layers"]):
        round_weights(layer, LLM_STEPS)
    save_component(recipe.checkpoint, "llm", model.llm, is_packed=True)


def speak(recipe: Recipe) -> None:
    """Starts the talker on typed questions, for which neither encoder nor stage 1 is needed; or goes on (`start`)."""
    trained = {"talker": "talker"} if goes_on(recipe) else {}
    model = assemble(recipe, llm="text_llm", **trained)
    train_talker(model, recipe.data, recipe.folder, recipe.config, recipe.seed)
    save_component(recipe.checkpoint, "typed_talker", model.talker)


def talker(recipe: Recipe) -> None:
    """Stage 2: speech projector, decoder and head on the frozen rest; from typed questions on, or goes on (`start`)."""
    first = "talker" if goes_on(recipe) else "typed_talker"
    model = assemble(recipe, encoder="encoder", llm="llm", adaptor="adaptor", talker=first)
    train_talker(model, recipe.data, recipe.folder, recipe.config, recipe.seed)
    assert model.talker is not None
    round_weights(model.talker, STEPS)
    save_component(recipe.checkpoint, "talker", model.talker, is_packed=True)
    write_json(recipe.checkpoint / "config.json", recipe.model.to_dict())


def heads(recipe: Recipe) -> None:
    """Trains the further decoders that the yaml lists, each with its seeds, all with the same budget."""
    for head, seeds in recipe.config["runs"].items():
        for seed in seeds:
            train_head(recipe, head, seed)


STAGES: dict[str, Callable[[Recipe], None]] = {
    "nano": nano,
    "synthesize": synthesize,
    "units": units,
    "tokenizer": tokenizer,
    "vocoder": vocoder,
    "flow": flow,
    "text": text,
    "encoder": encoder,
    "drill": drill,
    "pace": pace,
    "align": align,
    "hear": hear,
    "answer": answer,
    "speak": speak,
    "talker": talker,
    "heads": heads,
}
