"""Parts of a model: Gaussian families, prior, heads, bases, initializer."""
