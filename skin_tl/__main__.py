"""``python -m skin_tl STEP``: run one step of the workflow, see `skin_tl.workflow.steps`."""

import sys

from skin_tl.workflow.steps import main

if __name__ == "__main__":
    sys.exit(main())
