"""Images in: sources that give example i, one deterministic order over them, and the host loader for larger data.

- sources   what a data set is; arrays in memory, `.npz` files, the embedded digits; `load`, which opens any of them
- folder    folders of image files, with or without labels
- tfds      data sets prepared by TensorFlow Datasets, read without TensorFlow
- images    any image file to RGB uint8; random and centre crops on the host
- sampler   which examples the batch of a step holds: a pure function of (seed, step)
- loader    Grain: decodes each image once, cuts all its crops, yields uint8 batches
"""
