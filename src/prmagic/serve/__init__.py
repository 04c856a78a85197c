"""The HTTP server: references and photos come in, masks go out, also in the words of labelling tools."""
