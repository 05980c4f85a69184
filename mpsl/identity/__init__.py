"""Who is who: members of a fleet, their certificates, and the authority that signs them.

Bytes in, bytes out. Files, keys, random numbers and the time come from the caller.
"""
