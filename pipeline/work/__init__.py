"""One attempt at a task, wherever it runs: read the inputs, call the user's code, write, leave a
receipt.
"""
