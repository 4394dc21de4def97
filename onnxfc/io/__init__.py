"""Models as files: skeleton and large bytes, external data, atomic writes, the protobuf wire format."""
