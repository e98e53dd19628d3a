"""Fast exact kernels for the mixing and its loss."""
