"""From a video to a bundle: a low-resolution video, and the small networks that restore it."""
