"""The HTTP door: publish, work a queue, follow a stream and look after it all with nothing but HTTP."""
