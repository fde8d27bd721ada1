"""The choice of decoder and its sampling, for tabs that answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from demo.state import App
from demo.timeline import N_CANDIDATES
from vocalnet import DecodeOptions

DEFAULT_STEP = 3  # tokens per step, the paper's best trade between speed and quality


@dataclass(frozen=True)
class Decoding:
    """The components that say how speech tokens are decoded, in the order of the endpoints' arguments."""

    decoder: gr.Dropdown
    tokens_per_step: gr.Slider
    policy: gr.Dropdown
    temperature: gr.Slider
    seed: gr.Number

    def components(self) -> list[Any]:
        """Returns the components in that order."""
        return [self.decoder, self.tokens_per_step, self.policy, self.temperature, self.seed]


def decoding(app: App) -> Decoding:
    """Lays out the choice of decoder and its sampling."""
    model = app.model
    with gr.Row():
        decoder = gr.Dropdown(list(model.decoders), value=model.decoders[0], label="Decoder", min_width=200)
        steps = gr.Slider(
            1,
            model.max_tokens_per_step,
            value=min(DEFAULT_STEP, model.max_tokens_per_step),
            step=1,
            label="Tokens per step",
            min_width=200,
        )
    with gr.Accordion("Sampling", open=False), gr.Row():
        policy = gr.Dropdown(list(model.policies), value=model.policies[0], label="Policy", min_width=200)
        temperature = gr.Slider(0.0, 1.5, value=0.0, step=0.05, label="Temperature", min_width=200)
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=200)
    return Decoding(decoder, steps, policy, temperature, seed)


def decode_options(
    talker: Any, tokens_per_step: int, policy: str, temperature: float, seed: float | None, *, mask: str = "full"
) -> DecodeOptions:
    """Returns what the components ask for, else the talker's own; the candidates are for the token statistics."""
    return replace(
        talker.default_options(mask),
        tokens_per_step=int(tokens_per_step),
        policy=policy,
        temperature=temperature,
        seed=whole_seed(seed),
        n_candidates=N_CANDIDATES,
    )


def whole_seed(seed: float | None) -> int:
    """Returns what a field for a seed holds.

    Raises:
        ValueError: it was emptied.
    """
    if seed is None:
        raise ValueError("The field Seed is empty: write a whole number from 0, such as 0.")
    return int(seed)
