"""Settings by name: lists for people, completion for shells."""
