"""Commands of the command line that stand in files of their own; `vocalnet/__main__.py` lists them all."""
