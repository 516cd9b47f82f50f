"""A read-only web page over a catalog. Needs neither torch nor ray; see `catalog.gallery.app`."""
