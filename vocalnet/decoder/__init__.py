"""The talker: speech projector, decoder, heads, and how their tokens are picked and streamed."""
