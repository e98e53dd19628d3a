"""The report of a chain: gathered from its files, written as a page, as tables and as JSON."""
