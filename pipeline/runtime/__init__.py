"""Joins stores, executors and sinks on one machine: run, watch, publish, replay, jobs."""
