"""Reporting: from the files of finished runs to tables, figures, texts, pages and slides.

In: ``runs/<study>/`` and the sources below ``report/``.  Out: ``report/<study>/``.  Imports neither Keras nor
TensorFlow.
"""
