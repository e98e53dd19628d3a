"""Fast exact forms of what the mixing and its loss compute."""
