"""The command `crossrank`."""
