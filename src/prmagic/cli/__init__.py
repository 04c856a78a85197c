"""The command line. `main.py` joins the commands, one file each; `options.py` has the options that they share."""
