"""Formulas of mixed models, and what the columns of a data frame become by one."""
