"""``python -m kfasync.cli``: the command without its entry point."""

from kfasync.cli import main

if __name__ == "__main__":
    main()
