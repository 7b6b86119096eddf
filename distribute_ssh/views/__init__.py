"""Words for people and JSON for programs, from plain data. Pure."""
