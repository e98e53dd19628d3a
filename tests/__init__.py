"""One test_<file>.py per source file; the names of the tests state the truth they check."""
