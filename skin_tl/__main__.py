"""``python -m skin_tl``: the command line behind ``./run_all.sh``, see `skin_tl.workflow.cli`."""

import sys

from skin_tl.workflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
