"""Data: from files on disk or a download to checked metadata, decoded images and splits.

In: a folder or an archive of a release, or a seed of the synthetic data set.  Out: `Dataset`, ``metadata.csv``,
``splits.csv`` and decoded images in the cache.  Imports no other package of `skin_tl`.
"""
