"""The report of a chain: read from its files, written as a web page, tables and JSON."""
