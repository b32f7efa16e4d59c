"""What everything else stands on: errors, files, places, settings, the device, where a number comes from."""
