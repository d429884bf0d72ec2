"""Committed scans → series: the queue's transitions, one try of one scan, the worker that tries, and what is deleted.

The HTTP interface imports `queue` alone, so that no projector comes with it.
"""
