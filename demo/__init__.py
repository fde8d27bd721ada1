"""The playground: a Gradio page over the public surface of `vocalnet`."""
