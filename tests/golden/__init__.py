"""What earlier code wrote, and later code must read, go on with and redraw to the same bits."""
