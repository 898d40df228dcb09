"""A page on this machine that shows trained models at work; it needs the extra `demo`."""
