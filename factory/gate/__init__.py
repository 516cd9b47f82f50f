"""Gates: each checks one image and says accepted or rejected, with a score and a reason."""
