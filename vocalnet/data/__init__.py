"""Training data in the published format: read, checked, tokenised, converted, counted, packed, streamed."""
