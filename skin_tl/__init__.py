"""Transfer learning for skin-cancer detection: the helper package behind the notebooks.

The modules read in the order the data flows: `study` (what is asked) → `dataset` → `images` → `splits` →
`backbones` → `features` → `training`, `tuning` → `evaluation` → `facts`, `figures` → `rendering`.  Importing the
package costs nothing: Keras is imported when a network is built or read, by
`backbones.import_keras` alone.
"""

__version__ = "0.1.0"
