"""One width taken away as an ordinary network: plain files, other libraries' formats, a folder to publish."""
