"""`python -m llmbook` is the command `llmbook`."""

import sys

if __name__ == "__main__":
    from .cli.main import main

    sys.exit(main())
