"""Results of runs, published rows, and the statistics of comparisons."""
