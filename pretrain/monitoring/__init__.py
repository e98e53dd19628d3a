"""What is measured while an encoder trains."""
