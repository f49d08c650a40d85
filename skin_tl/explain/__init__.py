"""Explain: which pixels and which training images a prediction rests on.

In: trained models and images.  Out: saliency maps, nearest neighbours and maps of features.
"""
