"""What a study measured of its arms: the tables of its runs, and the figures made of them."""
