"""Transfer learning for skin-cancer detection: the helper package behind the notebooks.

Data flow through the packages: `settings` and `study` (what a study asks for) → `data` → `models` → `evaluation` →
`explain` → `reporting`; `apps` use finished runs, and `workflow` runs the steps.  Importing the package does not import
Keras: only `models.backbones.import_keras` does, when a network is built or read.
"""

import sys

# jsonschema, which nbformat imports, builds a grammar of addresses (seconds) for a check that nobody asks for.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

__version__ = "0.1.0"
