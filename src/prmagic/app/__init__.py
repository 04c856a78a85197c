"""The web page: examples, photos, one query step by step, and results to take away (`prmagic app`).

`marking` (how a mask is made), `engine` (the models), `visitor` (what belongs to one visitor) and `results` (what can
be taken away) know nothing of Gradio; `page` lays them out, `server` serves them.
"""
