"""The page's parts, one file each."""
