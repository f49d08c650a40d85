"""Transfer learning for skin-cancer detection: the helper package behind the notebooks.

Data flow through the packages: `settings` and `study` (what a study asks for) → `data` → `models` → `evaluation` →
`explain` → `reporting`; `apps` use finished runs, and `workflow` runs the steps.  Importing the package does not import
Keras: only `models.backbones.import_keras` does, when a network is built or read.
"""

__version__ = "0.1.0"
