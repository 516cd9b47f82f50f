"""The methods: a folder each, which owns its options, its plan, its drawing and its training."""
