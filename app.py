"""Starts the playground: `python app.py --model nano --port 7860`."""

from demo.page import main
from demo.ui import build

if __name__ == "__main__":
    main(build, __doc__)
