"""The package from Python: train, load, sample, evaluate.

    import uvit_dia

    model = uvit_dia.load("runs/quickstart")
    images = model.sample(16, seed=0)

Images and numbers are those of the commands `sample.py` and `eval_fid.py` with the same settings.
"""
