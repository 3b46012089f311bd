"""A local page on the public API: make, edit, look inside, codes, clips, training; see `docs/studio.md`.

It stands on gradio (the extra `studio`), which brings queue, uploads, progress and an accessible page that works
offline. `host`, `making`, `render` and `runs` know nothing of it.
"""
