"""Parts of a model, namely Gaussian families, prior, heads, bases and initializer."""
