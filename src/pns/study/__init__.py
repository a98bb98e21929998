"""`pns study`: methods x objectives x seeds under one protocol, with honest statistics."""
