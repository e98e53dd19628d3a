"""Running one stage."""
