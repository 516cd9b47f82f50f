"""From a folder of images to a study, in commands that can be typed one by one."""
