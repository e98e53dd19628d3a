"""From a chain file to its stages; nothing here starts or writes anything."""
