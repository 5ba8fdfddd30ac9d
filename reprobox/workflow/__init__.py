"""The use cases, one file each: init, run, replay, compare, show, doctor, image. Plain functions over the rooms."""
