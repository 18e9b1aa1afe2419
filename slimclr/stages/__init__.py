"""What each rule runs: read the section of the config, call the library, write the outputs."""
