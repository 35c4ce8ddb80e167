"""What the statistical tests share: each tool is itself tested in `test_tools.py`."""
