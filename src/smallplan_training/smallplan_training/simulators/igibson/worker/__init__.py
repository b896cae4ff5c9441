"""What runs in iGibson's own environment (Python 3.8 too): it imports nothing of this project outside of this folder.

`protocol.py` alone is used by the adapter as well.
"""
