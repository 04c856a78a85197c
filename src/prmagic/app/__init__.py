"""The web page (`prmagic app`): mark examples, search photos, look at each step, correct, take the masks away.

Without Gradio: `settings` (what can be chosen), `marking` (masks made by hand), `engine` (the models), `workspace`,
`examples` and `visitor` (what belongs to one visitor), `visitors` (all of them), `download` and `rerun` (what a visitor
takes away). With Gradio: `page` and `tabs/` lay the page out, `server` serves it, `gate` decides what is let in.
"""
