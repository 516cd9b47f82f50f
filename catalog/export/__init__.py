"""Exports: a selection of the catalog in the layouts that other tools read, with card and proofs.

Images leave with the bytes that the table holds, unless a mark is asked for; masks always do. A
synthetic set is training material: every layout has the one split `train`.
"""
