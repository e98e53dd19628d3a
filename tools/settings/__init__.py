"""Lists of config keys, and completion for shells."""
