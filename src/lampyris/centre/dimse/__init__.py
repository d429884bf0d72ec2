"""The DICOM network: nodes that store, ask, fetch and commit, and what they are sent (PS3.4, PS3.7, PS3.8)."""
