"""Single encoded images: checking and decoding them (data sets of them are in `data.stores`)."""
