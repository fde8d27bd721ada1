"""VocalNet: a speech LLM that answers in text and speech with multi-token prediction."""
