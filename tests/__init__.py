"""The tests mirror the source tree; tests/making holds what makes their inputs, tests/repo the rules of the house."""
