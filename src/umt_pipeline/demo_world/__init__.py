"""The demo world: a seeded generator of small real videos of moving objects, with captions and labels.

It exists so that the whole pipeline can be run, and its promises measured, without network and without a GPU.
"""
