"""Measurements by others' protocols: OpenAudioBench as the paper uses it, negative log likelihood as LMFlow does."""
