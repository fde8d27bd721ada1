"""LISA: layer-wise importance sampling. Embeddings, final norm, head and adaptor always train, of the decoder layers a
few at a time, drawn anew every so many steps.

Source: Pan et al. 2024 (arXiv 2403.17919); uniform draws without replacement, as there. The draw is a hash of (seed,
period), so a resumed run goes on with the same layers. A layer that leaves gives its optimizer state back: that is
where the memory is saved. It starts from zero when it is drawn again, whether the run was interrupted or not.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vocalnet.experts import decoder_layers
from vocalnet.training.draws import lisa_layers
from vocalnet.training.objectives import Objective
from vocalnet.training.settings import Settings


class Lisa(TrainerCallback):
    """Chooses the layers that train, at the start and at every period's first step."""

    def __init__(self, objective: Objective, settings: Settings) -> None:
        """Takes the stage while all of its LLM is trainable, so that the optimizer gets to know every weight.

        Raises:
            ValueError: more layers are asked for than there are.
        """
        self.layers: list[nn.Module] = [*decoder_layers(objective.model.llm)]
        self.settings = settings
        if not 0 < settings.lisa_layers <= len(self.layers) or settings.lisa_every < 1:
            raise ValueError(
                f"lisa_layers={settings.lisa_layers} of {len(self.layers)} layers, lisa_every={settings.lisa_every} "
                "steps: choose at least 1 of each, and no more layers than there are."
            )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Chooses the layers of a new period, and those of a resumed run's first one."""
        is_chosen = any(not weight.requires_grad for layer in self.layers for weight in layer.parameters())
        if state.global_step % self.settings.lisa_every == 0 or not is_chosen:
            self.choose(state.global_step, kwargs["optimizer"])

    def choose(self, step: int, optimizer: Any) -> None:
        """Freezes and unfreezes layers as in a step, and drops the optimizer state of those that are frozen."""
        settings, n_layers = self.settings, len(self.layers)
        chosen = lisa_layers(settings.seed, step // settings.lisa_every, n_layers, settings.lisa_layers)
        for number, layer in enumerate(self.layers):
            for weight in layer.parameters():
                weight.requires_grad_(number in chosen)
                if number not in chosen:
                    weight.grad = None
                    optimizer.state.pop(weight, None)
