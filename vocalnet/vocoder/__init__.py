"""From speech tokens to waveform: flow matching, HiFT, streaming state, voice prompts, speech tokenizer."""
