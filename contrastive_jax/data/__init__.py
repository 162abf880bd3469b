"""Data sources with random access, the order in which training sees the examples, and the loader on the host.

- sources   the interface `Source`; arrays in memory; a subset of another source; names of splits
- digits    scikit-learn's handwritten digits, the embedded data set
- npz       `.npz` files
- folder    folders of image files, with or without labels
- bands     image files with other channels than RGB: gray ones, and TIFF files with many bands
- tfds      data sets prepared by TensorFlow Datasets, read without TensorFlow
- webdataset, parquet, huggingface, array_records   encoded images in files of records: tar files, Parquet files, data
            sets saved by `datasets`, `array_record` files
- encoded, files, parts   what these have in common: access to encoded images, files of a path, splits and labels
- pixels    images in memory of any depth and number of channels, as uint8 or uint16
- channels  mean and standard deviation of each channel of a sample
- open      `open_source` opens any of these by name
- images    decodes image files; random and center crops on the host
- sampler   the examples of each batch, a pure function of (seed, step)
- loader    Grain pipeline: decodes each image once, cuts all its crops, yields batches
"""
