"""Starts the playground: `python app.py --model nano --port 7860`."""

from demo.page import arguments, launch
from demo.state import App
from demo.ui import build


def main() -> None:
    """Parses arguments, loads the model, builds the page and serves it until interrupted."""
    args = arguments(__doc__).parse_args()
    app = App.load(args.model, device=args.device, dtype=args.dtype)
    launch(build(app), app, host=args.host, port=args.port, share=args.share, block=True)


if __name__ == "__main__":
    main()
