"""A study of the archive → what a page shows of it: pictures, plots, how it was made, what may be done with it."""
