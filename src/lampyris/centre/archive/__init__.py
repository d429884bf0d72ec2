"""DICOM files in the store → an index that answers who asks for them, and the services of DICOMweb over it."""
