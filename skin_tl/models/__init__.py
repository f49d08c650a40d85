"""Models: from decoded images and splits to trained heads and networks, and their predictions.

In: images, splits and weights.  Out: the files of a run (predictions, history, models, ``run.json``).  Imports
`skin_tl.data`, and `skin_tl.evaluation` for the metric that selects an epoch.  What watches a training is handed in.
"""
