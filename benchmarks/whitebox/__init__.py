"""White-box training under one rig: the batches, the contenders, and one cell of the study.

`data` makes models and batches, `loops` holds the plain loops (two peers and this product), `gkd`
drives TRL's trainer, `floor` times the bare matrix products, and `cell` runs one of them in the
process it is called in: `python -m benchmarks.whitebox.cell`. The study over all cells is
`benchmarks.training`.
"""
