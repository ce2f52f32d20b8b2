"""What codes and a table save and cost: processors, rival encodings, detection, expansion."""
