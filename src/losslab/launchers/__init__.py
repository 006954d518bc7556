"""Where the cells of a sweep run: on SLURM or on the GPUs of this machine; how they stand."""
