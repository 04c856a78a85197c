"""In-context segmentation frameworks that prompt SAM: `registry.py` finds them by name, `base.py` says what one is."""
