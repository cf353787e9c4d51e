"""Many fits or many interventions side by side, one folder a question."""
