"""The paper's claims in miniature: many small runs on the clips and the teacher of the demo.

`make claims` runs `python -m studies.claims`. The study uses the package; nothing in the package uses it.
"""
