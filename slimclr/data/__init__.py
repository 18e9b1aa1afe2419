"""The way of the data: archives to stores to views to batches."""
