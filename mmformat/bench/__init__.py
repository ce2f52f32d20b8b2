"""The scenarios that anybody can run at home: the demo, codec, fan-out, and the rivals' arms."""
