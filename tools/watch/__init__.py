"""A local web page that shows a chain while it runs; it reads the chain's files and changes nothing."""
