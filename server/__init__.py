"""The shell around the fold: time, network, disk and metrics. Start reading at `app.py`."""
