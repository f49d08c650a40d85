"""Evaluation: from predictions to metrics, intervals, comparisons, decisions and subgroups.

In: tables of predictions and of metadata.  Out: tables of scores.  Imports `skin_tl.data` alone, and neither Keras nor
TensorFlow: scores can be computed again from predictions on any machine.
"""
