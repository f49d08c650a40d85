"""Reporting: from the files of finished runs to tables, figures, texts, pages and slides.

In: ``runs/<study>/`` and the sources below ``report/``.  Out: ``report/<study>/``.  Imports neither Keras nor
TensorFlow.

In the order of the data: ``tables`` (with ``score_tables``, ``training_tables``), ``facts`` (every number of the
prose), ``selection`` (which rows belong to what is shown), ``verdicts`` and ``context`` (what texts may look at),
``texts``, ``figures`` (with ``drawing``), ``layouts`` (columns of tables), ``pictures`` and ``pieces`` (HTML),
``report`` (what the notebook calls), ``rendering`` and ``slides`` (pages).  ``watching`` shows a training.
"""
