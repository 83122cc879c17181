"""Programs to run and to copy from; each is run by a test."""
