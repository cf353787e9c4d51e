"""One file a command: config in, tables, figures and log out."""
