"""The page that shows how good an encoder is."""
