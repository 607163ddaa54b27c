"""A double of CuPy: its few calls that `app.devices.cuda` makes, over host memory. It shows nothing about any GPU.

It runs the Python of `app.devices.cuda` where there is no GPU, and is as awkward as CUDA may be, or more: what is asked
of a stream happens only when somebody waits for it; bytes that change on their way are an error, and so is whatever is
given back while work needs it, or used where another device is current. `cupy.pretended` is the test's side of it.
"""
