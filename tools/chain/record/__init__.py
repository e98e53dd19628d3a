"""What a chain leaves on disk: attempts and states."""
