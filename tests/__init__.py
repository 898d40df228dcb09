"""The tests; a package, since others install a package of this name too."""
