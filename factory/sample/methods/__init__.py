"""How each method turns a batch of requests into images."""
