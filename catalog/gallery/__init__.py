"""Web pages over a catalog. They read, and `factory review` adds verdicts; see `gallery.app`."""
