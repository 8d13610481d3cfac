"""Adaptive Deconvolutional Networks: hierarchies of sparse maps that reconstruct images, learned without labels.

Zeiler, Taylor and Fergus, Adaptive Deconvolutional Networks for Mid and High Level Feature Learning (ICCV 2011), from
which the deconvnet has its unpooling through switches. Images are gray, local-contrast normalized, [N, H, W, 1].

    stack.py       the layers and their sizes
    operators.py   R, from a layer's maps down to the image, and its adjoint
    inference.py   maps and switches of images, by ISTA or FISTA
    learning.py    filters, by conjugate gradients
"""
