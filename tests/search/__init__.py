"""Tests of `factory.search`."""
