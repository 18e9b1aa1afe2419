"""A plain network in the formats of other libraries: each module writes one and computes with what it wrote."""
