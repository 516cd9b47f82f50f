"""What an assistant may ask of a catalog: tools that only read, served as the MCP has it."""
