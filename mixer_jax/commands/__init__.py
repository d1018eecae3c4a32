"""A file a command: flags and config in, rooms wired together. The only readers of ConfigDict."""
