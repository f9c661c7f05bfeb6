"""Training by the objective and its loop, and maximum likelihood of the prior."""
