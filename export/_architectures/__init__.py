"""A checkpoint in one form, whatever family it is of: its configuration, its weights under one set of names."""
