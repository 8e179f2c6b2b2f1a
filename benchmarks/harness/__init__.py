"""Parts that the benchmark commands share."""
