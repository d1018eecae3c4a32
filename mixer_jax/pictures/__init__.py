"""Numbers -> PNG images and text tables; imports nothing of the package."""
