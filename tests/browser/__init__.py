"""What a person sees of the service: real pages in a real browser, from a real server."""
