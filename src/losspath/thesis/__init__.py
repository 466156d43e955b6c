"""The annex: the thesis's networks, data sets and training, and its study made again.

The core imports nothing of it. It adds the commands `train`, `demo` and `study`, and tells the
core's commands of the runs that `train` made, by entry points as any other package may.
"""
