"""The adapters behind the ports that the workflows own."""
