"""Pure values: what is stored, reported and decided about. They know nothing but each other."""
