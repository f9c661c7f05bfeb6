"""Effects of groups: their covariance, the evidence of labels with effects left out, and its maximum."""
