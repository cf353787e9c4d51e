"""`make bench-sae`: our SAE trainer beside sparsify, dictionary-learning and SAELens, each run by its own public trainer."""
