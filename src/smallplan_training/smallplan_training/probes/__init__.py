"""Minimal pairs that test apart what a small model does not learn by itself: `smallplan probe` asks them."""
