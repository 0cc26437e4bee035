"""Measured faithfulness: how well explanations of a classifier hold on a data set."""
