"""Training: the objective, the loop, and maximum likelihood of the prior."""
