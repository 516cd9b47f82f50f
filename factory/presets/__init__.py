"""Configurations that ship with the factory; `load_config` finds them by name."""
