"""Decoders in C++, for CPUs: a step is one call, weights stay as their files quantise them.

`kernels` has the sources, `build` compiles them where there is a compiler, `library` calls them, `matrices` packs
weights, `decoder` puts a model together. Where nothing is built, or for a model of another kind, torch computes.
"""
