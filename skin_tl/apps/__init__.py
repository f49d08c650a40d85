"""Apps: what people do with finished runs: predict images of their own, export a model, explore in a notebook."""
