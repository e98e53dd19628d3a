"""Words, numbers and escaping of a report."""
