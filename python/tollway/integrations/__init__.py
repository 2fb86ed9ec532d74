"""tollway inside other libraries: one module each, which imports its library on first use."""
